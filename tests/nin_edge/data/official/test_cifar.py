from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge.data import Dataset, DatasetError, open_dataset


def read(path: Path) -> Dataset:
    return open_dataset(path, size=32, workers=1)


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("place", ["archive", "folder", "archive in a folder", "zip"])
def test_cifar10_is_found_and_read(
    official: Any, tmp_path: Path, cifar10: Any, form: str, place: str
) -> None:
    path = official.write(tmp_path / "cifar-10-batches", getattr(official, form)(cifar10))
    if place != "folder":
        (tmp_path / "in").mkdir()
        name = f"cifar-10-{form}." + ("zip" if place == "zip" else "tar.gz")
        path = official.packed(path, tmp_path / "in" / name)
    dataset = read(path.parent if place == "archive in a folder" else path)
    assert dataset.official == "cifar10"
    official.check(dataset, cifar10, "test_batch", official.CIFAR10)
    assert (len(dataset.train), len(dataset.holdout), len(dataset.test)) == (40, 10, 20)


@pytest.mark.parametrize("form", ["binary", "python"])
def test_cifar100_has_the_fine_classes(
    official: Any, tmp_path: Path, cifar100: Any, form: str
) -> None:
    folder = official.write(tmp_path / "cifar-100", getattr(official, form)(cifar100))
    dataset = read(official.packed(folder, tmp_path / "c.tar.gz"))
    assert dataset.official == "cifar100"
    official.check(dataset, cifar100, "test", official.CIFAR100)


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_of_todays_python_and_numpy_are_read(
    official: Any, tmp_path: Path, cifar10: Any, protocol: int
) -> None:
    files = official.python(cifar10, official.pickled_anew(protocol))
    dataset = read(official.write(tmp_path / "c", files))
    official.check(dataset, cifar10, "test_batch", official.CIFAR10)


def test_an_array_in_fortrans_order_is_read(official: Any, tmp_path: Path, cifar10: Any) -> None:
    def dump(value: dict[str, Any]) -> bytes:
        if "data" in value:
            value["data"] = np.asfortranarray(value["data"])
        return official.pickled_anew(4)(value)

    dataset = read(official.write(tmp_path / "c", official.python(cifar10, dump)))
    official.check(dataset, cifar10, "test_batch", official.CIFAR10)


def test_both_forms_are_the_same_data_set(official: Any, tmp_path: Path, cifar10: Any) -> None:
    binary = read(official.write(tmp_path / "binary", official.binary(cifar10)))
    python = read(official.write(tmp_path / "python", official.python(cifar10)))
    assert binary.fingerprint == python.fingerprint
    both = official.write(tmp_path / "both" / "b", official.binary(cifar10)).parent
    official.write(both / "p", official.python(cifar10))
    assert read(both).fingerprint == binary.fingerprint


# --- damage ---------------------------------------------------------------------------------------


def cut(count: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:-count]


def start(replacement: bytes) -> Callable[[bytes], bytes]:
    return lambda data: replacement + data[len(replacement) :]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("data_batch_3.bin", cut(5), r"data_batch_3\.bin: 30,725 bytes, expected records of 3,073"),
        ("data_batch_3.bin", lambda _: b"", r"data_batch_3\.bin: 0 bytes"),
        ("test_batch.bin", start(b"\x0a"), r"test_batch\.bin: label 10 of image 0, expected 0 to"),
        ("batches.meta.txt", cut(9), r"batches\.meta\.txt: 9 different class names, expected 10"),
        ("batches.meta.txt", lambda _: b"a\n" * 10, "1 different class names, expected 10"),
    ],
)
def test_damaged_binary_files_are_named(
    official: Any,
    tmp_path: Path,
    cifar10: Any,
    name: str,
    change: Callable[[bytes], bytes],
    words: str,
) -> None:
    files = official.binary(cifar10)
    files[name] = change(files[name])
    with pytest.raises(DatasetError, match=words) as caught:
        read(official.write(tmp_path / "c", files))
    assert str(caught.value).startswith(f"{tmp_path / 'c'}: ")


def entry(**changes: Any) -> Callable[[Any, Any], bytes]:
    """A pickled batch with some entries changed; None removes one."""

    def change(official: Any, truth: Any) -> bytes:
        pixels, targets = truth["data_batch_2"]
        whole = {"data": pixels.reshape(10, -1), "labels": targets.tolist()} | changes
        return official.pickled({key: value for key, value in whole.items() if value is not None})

    return change


def state(*changed: Any) -> Callable[[Any, Any], bytes]:
    """A batch whose array was given this state."""

    def change(official: Any, truth: Any) -> bytes:
        start = b"cnumpy.core.multiarray\n_reconstruct\n(tR"
        opcodes = official.opcodes
        return b"\x80\x02}(" + opcodes("data") + start + opcodes(changed) + b"bu."

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (entry(labels=[0] * 9), "10 images but 9 labels"),
        (entry(labels=[0] * 9 + [10]), "label 10 of image 9, expected 0 to 9"),
        (entry(labels=[0] * 9 + [-1]), "label -1 of image 9"),
        (entry(labels=["0"] * 10), "its labels are not whole numbers"),
        (entry(labels=5), "int in its pickle, expected a list"),
        (entry(labels=None), "its pickle has no 'labels'"),
        (entry(data=None), "its pickle has no 'data'"),
        (entry(data="text"), "bytes in its pickle, expected an array"),
        (entry(data=np.zeros((10, 784), np.uint8)), r"shape \(10, 784\), expected \(N, 3072\)"),
        (entry(data=np.zeros((0, 3072), np.uint8), labels=[]), r"shape \(0, 3072\)"),
        (state(1, (10, 3072)), "expected an array"),
        (state(1, (10, 3072), None, False, "short"), "not of uint8"),
        (lambda official, truth: entry()(official, truth)[:-1000], "a broken pickle"),
        (lambda official, truth: b"", "a broken pickle"),
        (lambda official, truth: b"I am text", "a broken pickle"),
        (lambda official, truth: official.pickled([1, 2]), "a pickle of list, expected a dict"),
    ],
)
def test_damaged_pickles_are_named(
    official: Any, tmp_path: Path, cifar10: Any, change: Callable[[Any, Any], bytes], words: str
) -> None:
    files = official.python(cifar10) | {"data_batch_2": change(official, cifar10)}
    with pytest.raises(DatasetError, match=rf"c: data_batch_2: .*{words}") as caught:
        read(official.write(tmp_path / "c", files))
    assert "\n" not in str(caught.value)


def test_an_altered_byte_in_an_archive_is_found(
    official: Any, tmp_path: Path, cifar10: Any
) -> None:
    folder = official.write(tmp_path / "c", official.binary(cifar10))
    path = official.packed(folder, tmp_path / "c.tar.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # random pixels are stored as they are: only the checksum can tell
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"c\.tar\.gz: a truncated or broken archive"):
        read(path)

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nin_edge.data.datasets import KINDS, Dataset, DatasetError, open_dataset, own_shape
from numpy.typing import NDArray

from nin_edge_runtime.image import Preprocessing, load_image

CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR100 = tuple(f"class {number:02}" for number in range(100))
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
REAL_MNIST = 70_000

Files = dict[str, bytes]
Truth = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]


def read(path: Path, **options: Any) -> Dataset:
    return open_dataset(path, **{"size": 32, "workers": 1, **options})


# --- the archives in small ------------------------------------------------------------------------


def made(classes: int, counts: Mapping[str, int], shape: tuple[int, ...]) -> Truth:
    """Random images, and labels that take every class in turn, for some files."""
    rng = np.random.default_rng(len(counts))
    return {
        name: (
            rng.integers(0, 256, (count, *shape), dtype=np.uint8),
            rng.permutation(np.arange(count) % classes),
        )
        for name, count in counts.items()
    }


@pytest.fixture
def cifar10() -> Truth:
    counts = dict.fromkeys([f"data_batch_{number}" for number in range(1, 6)], 10)
    return made(10, {**counts, "test_batch": 20}, (3, 32, 32))


@pytest.fixture
def cifar100() -> Truth:
    return made(100, {"train": 300, "test": 100}, (3, 32, 32))


def binary(truth: Truth) -> Files:
    """The binary form; CIFAR-100's coarse labels are all 19."""
    coarse = b"\x13" if "train" in truth else b""
    files = {
        f"{name}.bin": b"".join(
            coarse + bytes([target]) + image.tobytes()
            for image, target in zip(pixels, targets, strict=True)
        )
        for name, (pixels, targets) in truth.items()
    }
    if coarse:
        files["fine_label_names.txt"] = "\n".join([*CIFAR100, ""]).encode()
        files["coarse_label_names.txt"] = b"aquatic_mammals\nfish\n"
    else:
        files["batches.meta.txt"] = "\n".join([*CIFAR10, "", ""]).encode()
    return files | {"readme.html": b"<html>"}


def by_python_2(value: Any) -> bytes:
    """The opcodes that Python 2 and the NumPy of its time wrote for a value."""
    if isinstance(value, dict):
        items = b"".join(by_python_2(key) + by_python_2(item) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(by_python_2, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(by_python_2, value)) + b"t"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return by_python_2(value.encode())
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if value is None:
        return b"N"
    array = np.ascontiguousarray(value)
    dtype = b"cnumpy\ndtype\n" + by_python_2(("u1", 0, 1)) + b"R"
    dtype += by_python_2((3, "|", None, None, None, -1, -1, 0)) + b"b"
    state = b"(" + by_python_2(1) + by_python_2(array.shape) + dtype + by_python_2(False)
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + by_python_2((0,))
    return start + by_python_2("b") + b"tR" + state + by_python_2(array.tobytes()) + b"tb"


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + by_python_2(value) + b"."


def python(truth: Truth, dump: Callable[[Any], bytes] = pickled) -> Files:
    """The python form."""
    fine = "fine_" if "train" in truth else ""
    files = {
        name: dump(
            {
                "batch_label": name,
                f"{fine}labels": [int(target) for target in targets],
                "data": pixels.reshape(len(pixels), -1),
            }
        )
        for name, (pixels, targets) in truth.items()
    }
    names = list(CIFAR100 if fine else CIFAR10)
    files["meta" if fine else "batches.meta"] = dump({f"{fine}label_names": names, "num_vis": 3072})
    return files


def idx(values: NDArray[Any]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def digits() -> Truth:
    return made(10, {"train": 60, "t10k": 20}, (28, 28))


def idx_files(truth: Truth, *, separator: str = "-", packed: bool = True) -> Files:
    files = {}
    for split, arrays in truth.items():
        for what, values in zip(("images", "labels"), arrays, strict=True):
            name = f"{split}-{what}{separator}idx{values.ndim}-ubyte"
            files[name + ".gz" * packed] = gzip.compress(idx(values)) if packed else idx(values)
    return files


def put(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def packed(folder: Path, archive: Path) -> Path:
    """The folder in an archive, under its own name, as the official ones are."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in sorted(folder.iterdir()):
                zipped.write(file, f"{folder.name}/{file.name}")
    else:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, folder.name)
    return archive


def check(dataset: Dataset, truth: Truth, tests: str, labels: tuple[str, ...]) -> None:
    """Every image is where and what it should be."""
    assert dataset.labels == labels
    for split, names in (("train", [n for n in truth if n != tests]), ("test", [tests])):
        images = np.concatenate([truth[name][0] for name in names])
        targets = np.concatenate([truth[name][1] for name in names])
        for number, (image, target) in enumerate(zip(images, targets, strict=True)):
            index = dataset.names.index(f"{split}/{number:05}")
            assert dataset.targets[index] == target
            assert (index in dataset.test) == (split == "test")
            expected = image.transpose(1, 2, 0) if image.ndim == 3 else image[:, :, np.newaxis]
            assert np.array_equal(dataset.images[index], expected)


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [binary, python])
@pytest.mark.parametrize("place", ["archive", "folder", "archive in a folder", "zip"])
def test_cifar10_is_found_and_read(
    tmp_path: Path, cifar10: Truth, form: Callable[[Truth], Files], place: str
) -> None:
    path = put(tmp_path / "cifar-10-batches", form(cifar10))
    if place != "folder":
        (tmp_path / "in").mkdir()
        name = f"cifar-10-{form.__name__}." + ("zip" if place == "zip" else "tar.gz")
        path = packed(path, tmp_path / "in" / name)
    dataset = read(path.parent if place == "archive in a folder" else path)
    assert dataset.kind == "cifar10"
    check(dataset, cifar10, "test_batch", CIFAR10)
    assert (len(dataset.train), len(dataset.holdout), len(dataset.test)) == (40, 10, 20)


@pytest.mark.parametrize("form", [binary, python])
def test_cifar100_has_the_fine_classes(
    tmp_path: Path, cifar100: Truth, form: Callable[[Truth], Files]
) -> None:
    dataset = read(packed(put(tmp_path / "cifar-100", form(cifar100)), tmp_path / "c.tar.gz"))
    assert dataset.kind == "cifar100"
    check(dataset, cifar100, "test", CIFAR100)


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_of_todays_python_and_numpy_are_read(
    tmp_path: Path, cifar10: Truth, protocol: int
) -> None:
    files = python(cifar10, lambda value: pickle.dumps(value, protocol=protocol))
    check(read(put(tmp_path / "c", files)), cifar10, "test_batch", CIFAR10)


def test_an_array_in_fortrans_order_is_read(tmp_path: Path, cifar10: Truth) -> None:
    def dump(value: dict[str, Any]) -> bytes:
        if "data" in value:
            value["data"] = np.asfortranarray(value["data"])
        return pickle.dumps(value, protocol=4)

    check(read(put(tmp_path / "c", python(cifar10, dump))), cifar10, "test_batch", CIFAR10)


def test_both_forms_are_the_same_data_set(tmp_path: Path, cifar10: Truth) -> None:
    one, other = (read(put(tmp_path / form.__name__, form(cifar10))) for form in (binary, python))
    assert one.fingerprint == other.fingerprint
    both = put(tmp_path / "both" / "b", binary(cifar10)).parent
    put(both / "p", python(cifar10))
    assert read(both).fingerprint == one.fingerprint


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("place", ["folder", "tar.gz", "zip"])
def test_mnist_is_found_and_read(
    tmp_path: Path, digits: Truth, separator: str, compressed: bool, place: str
) -> None:
    files = idx_files(digits, separator=separator, packed=compressed)
    path = put(tmp_path / "raw", files)
    if place != "folder":
        path = packed(path, tmp_path / f"digits.{place}")
    dataset = read(path, size=28, channels=1)
    assert dataset.kind == "mnist"
    check(dataset, digits, "t10k", tuple("0123456789"))


def test_what_is_unpacked_beside_its_gz_is_one_data_set(tmp_path: Path, digits: Truth) -> None:
    path = put(tmp_path / "raw", idx_files(digits) | idx_files(digits, packed=False))
    check(read(path, size=28, channels=1), digits, "t10k", tuple("0123456789"))


@pytest.mark.parametrize(("size", "channels"), [(28, 3), (32, 1), (32, 3), (16, 1)])
def test_arrays_take_the_road_of_image_files(
    tmp_path: Path, digits: Truth, size: int, channels: int
) -> None:
    dataset = read(put(tmp_path / "raw", idx_files(digits)), size=size, channels=channels)
    steps = Preprocessing(size, channels, (0.5,) * channels, (0.5,) * channels)
    for number, image in enumerate(digits["t10k"][0]):
        index = dataset.names.index(f"test/{number:05}")
        expected = steps.resize(load_image(image))
        assert np.array_equal(dataset.images[index], expected)
        if size == 28:
            assert np.array_equal(dataset.images[index, ..., 2], image)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("fashion-mnist", None),
        ("FashionMNIST/raw", None),
        ("torch/FashionMNIST/raw", None),
        ("clothes", "fashion-mnist"),
    ],
)
def test_fashion_mnist_is_told_by_a_name(
    tmp_path: Path, digits: Truth, place: str, kind: str | None
) -> None:
    folder = put(tmp_path / place, idx_files(digits))
    path = tmp_path / "torch" if place.startswith("torch") else folder
    dataset = read(path, size=28, channels=1, kind=kind)
    assert dataset.kind == "fashion-mnist"
    check(dataset, digits, "t10k", CLOTHES)
    forced = read(path, size=28, channels=1, kind="mnist")
    assert (forced.kind, forced.labels[0]) == ("mnist", "0")


@pytest.mark.parametrize(
    ("place", "kind", "shape"),
    [
        ("raw", None, (28, 1)),
        ("fashion-mnist", None, (28, 1)),
        ("mnist", "mnist", (28, 1)),
        ("mnist", None, (28, 1)),
        ("cifar10", None, (32, 3)),
        ("nowhere", None, None),
        ("photos", None, None),
        ("cifar-100-binary.tar.gz", None, (32, 3)),
    ],
)
def test_an_archives_own_shape_is_known_without_unpacking_it(
    tmp_path: Path,
    digits: Truth,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    kind: str | None,
    shape: tuple[int, int] | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    if place in ("raw", "fashion-mnist"):
        put(tmp_path / place, idx_files(digits))
    elif place == "photos":
        put(tmp_path / place / "cat", {"1.jpg": b""})
    elif place.endswith("gz"):
        Path(place).write_bytes(b"not even an archive")
    assert own_shape(Path(place), kind) == shape


def test_the_very_mnist_opens(data_dir: Path) -> None:
    if not (data_dir / "mnist").is_dir():
        pytest.skip(f"no {data_dir / 'mnist'}")
    dataset = read(data_dir / "mnist", size=28, channels=1)
    assert dataset.kind == "mnist"
    assert dataset.images.shape == (REAL_MNIST, 28, 28, 1)
    assert len(dataset.test) == 10_000
    assert not dataset.duplicates


# --- what is meant --------------------------------------------------------------------------------


def test_a_folder_with_two_data_sets_asks_which(
    tmp_path: Path, cifar10: Truth, cifar100: Truth
) -> None:
    for name, truth in (("ten", cifar10), ("hundred", cifar100)):
        put(tmp_path / "data" / name, binary(truth))
    with pytest.raises(DatasetError, match=r"CIFAR-10 and CIFAR-100; say which by --dataset"):
        read(tmp_path / "data")
    assert len(read(tmp_path / "data", kind="cifar100").labels) == 100


def test_two_archives_in_a_folder_ask_which(
    tmp_path: Path, cifar10: Truth, cifar100: Truth
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    packed(put(tmp_path / "ten", binary(cifar10)), data / "cifar-10-binary.tar.gz")
    packed(put(tmp_path / "hundred", python(cifar100)), data / "cifar-100-python.tar.gz")
    with pytest.raises(DatasetError, match=r"holds CIFAR-100? and CIFAR-100?; say which"):
        read(data)
    assert len(read(data, kind="cifar10").labels) == 10


def test_images_beside_an_archives_files_ask_which(
    tmp_path: Path, digits: Truth, make_folder: Callable[..., Path]
) -> None:
    path = make_folder(tmp_path / "data", {"a": 5, "b": 5})
    put(path, idx_files(digits))
    with pytest.raises(DatasetError, match=r"MNIST and image files; say which by --dataset"):
        read(path)
    assert read(path, kind="folder").labels == ("a", "b")
    assert len(read(path, kind="mnist").labels) == 10


def test_some_files_with_an_archives_names_do_not_stop_a_folder(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    path = make_folder(tmp_path / "data", {"a": 5, "b": 5})
    put(path, {"train": b"a/000.png", "test": b"b/000.png"})
    assert read(path).labels == ("a", "b")


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
def test_a_folder_is_not_what_was_asked_for(
    tmp_path: Path, make_folder: Callable[..., Path], kind: str
) -> None:
    path = make_folder(tmp_path / "data", {"a": 5, "b": 5})
    with pytest.raises(DatasetError, match=r"data: not \S+, expected the files ") as caught:
        read(path, kind=kind)
    assert "\n" not in str(caught.value)


def test_an_archive_is_not_a_folder_of_images(tmp_path: Path, digits: Truth) -> None:
    with pytest.raises(DatasetError, match="no image files in it"):
        read(put(tmp_path / "raw", idx_files(digits)), kind="folder")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'imagenet', expected one of folder, cifar10"):
        read(tmp_path, kind="imagenet")
    assert KINDS == ("folder", "cifar10", "cifar100", "mnist", "fashion-mnist")


def test_one_file_of_an_archive_is_not_enough(tmp_path: Path, digits: Truth) -> None:
    folder = put(tmp_path / "raw", idx_files(digits))
    with pytest.raises(DatasetError, match="one file of a data set, expected the folder"):
        read(folder / "train-images-idx3-ubyte.gz")


def test_a_name_that_was_not_downloaded_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"^mnist: no such .* MNIST is not in .*--download"):
        read(Path("mnist"))
    with pytest.raises(DatasetError, match=r"^mnist: the name of MNIST, not of cifar10"):
        read(Path("mnist"), kind="cifar10")


def test_a_name_opens_what_was_downloaded(
    tmp_path: Path, digits: Truth, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(private_cache / "downloads" / "fashion-mnist", idx_files(digits))
    dataset = read(Path("fashion-mnist"), size=28, channels=1)
    assert (dataset.name, dataset.kind) == ("fashion-mnist", "fashion-mnist")
    put(tmp_path / "fashion-mnist", idx_files(made(10, {"train": 50, "t10k": 10}, (28, 28))))
    assert len(read(Path("fashion-mnist"), size=28, channels=1).names) == 60  # a path comes first


# --- what is damaged ------------------------------------------------------------------------------


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
        ("batches.meta.txt", cut(9), r"batches\.meta\.txt: 9 different class names, expected"),
        ("batches.meta.txt", lambda _: b"a\n" * 10, "1 different class names, expected"),
    ],
)
def test_damaged_binary_files_are_named(
    tmp_path: Path, cifar10: Truth, name: str, change: Callable[[bytes], bytes], words: str
) -> None:
    files = binary(cifar10)
    files[name] = change(files[name])
    with pytest.raises(DatasetError, match=words) as caught:
        read(put(tmp_path / "c", files))
    assert str(caught.value).startswith(f"{tmp_path / 'c'}: ")


@pytest.mark.parametrize("form", [binary, python])
def test_a_missing_file_is_named(
    tmp_path: Path, cifar10: Truth, form: Callable[[Truth], Files]
) -> None:
    files = {name: data for name, data in form(cifar10).items() if "batch_4" not in name}
    with pytest.raises(DatasetError, match=r"an incomplete CIFAR-10, without data_batch_4"):
        read(put(tmp_path / "c", files))


def entry(**changes: Any) -> Callable[[Truth], bytes]:
    """A pickled batch with some entries changed; None removes one."""

    def change(truth: Truth) -> bytes:
        pixels, targets = truth["data_batch_2"]
        whole = {"data": pixels.reshape(10, -1), "labels": targets.tolist()} | changes
        return pickled({key: value for key, value in whole.items() if value is not None})

    return change


def state(*changed: Any) -> Callable[[Truth], bytes]:
    """A batch whose array was given this state."""

    def change(truth: Truth) -> bytes:
        start = b"cnumpy.core.multiarray\n_reconstruct\n(tR"
        return b"\x80\x02}(" + by_python_2("data") + start + by_python_2(changed) + b"bu."

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
        (lambda truth: entry()(truth)[:-1000], "a broken pickle"),
        (lambda truth: b"", "a broken pickle"),
        (lambda truth: b"I am text", "a broken pickle"),
        (lambda truth: pickled([1, 2]), "a pickle of list, expected a dictionary"),
    ],
)
def test_damaged_pickles_are_named(
    tmp_path: Path, cifar10: Truth, change: Callable[[Truth], bytes], words: str
) -> None:
    files = python(cifar10) | {"data_batch_2": change(cifar10)}
    with pytest.raises(DatasetError, match=rf"c: data_batch_2: .*{words}") as caught:
        read(put(tmp_path / "c", files))
    assert "\n" not in str(caught.value)


class Malicious:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("where", ["data_batch_2", "batches.meta"])
def test_a_foreign_object_is_refused_and_nothing_runs(
    tmp_path: Path, cifar10: Truth, protocol: int, where: str
) -> None:
    evil = pickle.dumps({"data": Malicious(tmp_path / "ran")}, protocol=protocol)
    path = packed(put(tmp_path / "c", python(cifar10) | {where: evil}), tmp_path / "c.tar.gz")
    with pytest.raises(DatasetError, match=rf"{where}: it names the foreign object .*mkdir'; ref"):
        read(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(evil)  # it would have
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(Vprint(1)\ntR.",
        b"cnumpy\nload\n(Vx.npy\ntR.",
        b"cnumpy\nndarray.__init__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.fill\x93.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"Pid\n.",  # a persistent id
    ],
)
def test_no_other_name_is_resolved(tmp_path: Path, cifar10: Truth, opcodes: bytes) -> None:
    with pytest.raises(DatasetError, match=r"data_batch_2: (it names the foreign|a broken|unreg)"):
        read(put(tmp_path / "c", python(cifar10) | {"data_batch_2": opcodes}))


def relabelled(truth: Truth, targets: NDArray[np.int64]) -> Truth:
    return truth | {"train": (truth["train"][0], targets)}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "train-images-idx3-ubyte",
            start(b"\0\0\x0d\3"),
            "magic number 0x00000d03, expected 0x000",
        ),
        (
            "train-images-idx3-ubyte",
            start(b"\x89PNG"),
            "magic number 0x89504e47, expected 0x0000080",
        ),
        ("train-labels-idx1-ubyte", start(b"\0\0\x08\3"), "magic number 0x00000803, expected 0x00"),
        ("train-labels-idx1-ubyte", lambda _: b"", "magic number 0x, expected 0x00000801"),
        (
            "t10k-images-idx3-ubyte",
            cut(1),
            r"expected 15,680 bytes for \[20, 28, 28\]|found 15,679",
        ),
        ("t10k-images-idx3-ubyte", lambda data: data + b"x", "found more"),
        ("t10k-images-idx3-ubyte", lambda data: data[:10], "truncated in its header"),
        ("t10k-images-idx3-ubyte", start(b"\0\0\x08\3" + b"\xff" * 12), "more than 2 GiB"),
        ("t10k-images-idx3-ubyte", lambda _: idx(np.zeros((0, 28, 28))), "expected some with pix"),
        (
            "t10k-labels-idx1-ubyte",
            lambda _: idx(np.zeros(19)),
            "19 labels, but 20 images in t10k-",
        ),
        ("t10k-labels-idx1-ubyte", lambda _: idx(np.full(20, 11)), "label 11 of image 0, expected"),
    ],
)
@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
def test_damaged_idx_files_are_named(
    tmp_path: Path,
    digits: Truth,
    compressed: bool,
    name: str,
    change: Callable[[bytes], bytes],
    words: str,
) -> None:
    files = idx_files(digits, packed=compressed)
    name += ".gz" * compressed
    data = change(gzip.decompress(files[name]) if compressed else files[name])
    files[name] = gzip.compress(data) if compressed else data
    with pytest.raises(DatasetError, match=rf"raw: {name}: .*({words})") as caught:
        read(put(tmp_path / "raw", files), size=28)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [cut(4), cut(300), lambda data: data[:-8] + bytes(4) + data[-4:], lambda data: data[:5]],
    ids=["torn trailer", "torn", "wrong checksum", "torn header"],
)
def test_a_damaged_gz_is_named(
    tmp_path: Path, digits: Truth, change: Callable[[bytes], bytes]
) -> None:
    files = idx_files(digits)
    name = "train-images-idx3-ubyte.gz"
    with pytest.raises(DatasetError, match=f"raw: {name}: "):
        read(put(tmp_path / "raw", files | {name: change(files[name])}), size=28)


def test_an_altered_byte_in_an_archive_is_found(tmp_path: Path, cifar10: Truth) -> None:
    path = packed(put(tmp_path / "c", binary(cifar10)), tmp_path / "c.tar.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # random pixels are stored as they are: only the checksum can tell
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"c\.tar\.gz: a truncated or broken archive"):
        read(path)


def test_a_class_without_training_images_is_refused(tmp_path: Path, digits: Truth) -> None:
    truth = relabelled(digits, np.arange(60) % 9)
    with pytest.raises(DatasetError, match="no readable training image of class 9"):
        read(put(tmp_path / "raw", idx_files(truth)), size=28)


def test_one_class_alone_is_refused(tmp_path: Path, digits: Truth) -> None:
    truth = relabelled(digits, np.zeros(60, np.int64))
    with pytest.raises(DatasetError, match="training image of class 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        read(put(tmp_path / "raw", idx_files(truth)), size=28)


def test_nothing_half_read_stays(tmp_path: Path, digits: Truth, private_cache: Path) -> None:
    path = put(tmp_path / "raw", idx_files(digits))
    (path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(DatasetError):
        read(path)
    assert not private_cache.exists() or not list(private_cache.iterdir())
    shutil.rmtree(path)
    assert read(put(path, idx_files(digits))).kind == "mnist"

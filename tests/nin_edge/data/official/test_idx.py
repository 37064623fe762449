from __future__ import annotations

import gzip
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nin_edge.data import Dataset, DatasetError, locate, open_dataset
from nin_edge.data.official.registry import read_official
from nin_edge.data.sources import open_source
from nin_edge_runtime.image import load_image
from nin_edge_runtime.preprocessing import Preprocessing

DIGITS = tuple("0123456789")


def read(path: Path, *, size: int = 28, channels: int = 1) -> Dataset:
    return open_dataset(path, size=size, channels=channels, workers=1)


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("place", ["folder", "tar.gz", "zip"])
def test_mnist_is_found_and_read(
    official: Any, tmp_path: Path, digits: Any, separator: str, compressed: bool, place: str
) -> None:
    files = official.idx_files(digits, separator=separator, packed=compressed)
    path = official.write(tmp_path / "raw", files)
    if place != "folder":
        path = official.packed(path, tmp_path / f"digits.{place}")
    dataset = read(path)
    assert dataset.official == "mnist"
    official.check(dataset, digits, "t10k", DIGITS)


def test_a_file_beside_its_gz_is_one_data_set(official: Any, tmp_path: Path, digits: Any) -> None:
    files = official.idx_files(digits) | official.idx_files(digits, packed=False)
    official.check(read(official.write(tmp_path / "raw", files)), digits, "t10k", DIGITS)


@pytest.mark.parametrize(("size", "channels"), [(28, 3), (32, 1), (32, 3), (16, 1)])
def test_arrays_are_resized_as_image_files_are(
    official: Any, tmp_path: Path, digits: Any, size: int, channels: int
) -> None:
    folder = official.write(tmp_path / "raw", official.idx_files(digits))
    dataset = read(folder, size=size, channels=channels)
    steps = Preprocessing(size, channels, (0.5,) * channels, (0.5,) * channels)
    for number, image in enumerate(digits["t10k"][0]):
        index = dataset.names.index(f"test/{number:05}")
        expected = steps.resize(load_image(image))
        assert np.array_equal(dataset.images[index], expected)
        if size == 28:
            assert np.array_equal(dataset.images[index, ..., 2], image)


def test_the_real_mnist_is_read(data_dir: Path) -> None:
    folder = data_dir / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    location = locate(folder)
    assert (location.official, location.native_shape) == ("mnist", (28, 1))
    data = read_official(folder, open_source(folder), "mnist")
    shapes = {part.split: part.pixels.shape for part in data.parts}
    assert shapes == {"train": (60_000, 28, 28, 1), "test": (10_000, 28, 28, 1)}
    tests, training = ({image.tobytes() for image in part.pixels} for part in data.parts)
    assert not tests & training


# --- damage ---------------------------------------------------------------------------------------


def cut(count: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:-count]


def start(replacement: bytes) -> Callable[[bytes], bytes]:
    return lambda data: replacement + data[len(replacement) :]


def idx(*shape: int, value: int = 0) -> bytes:
    """An idx file with one value everywhere."""
    sides = b"".join(side.to_bytes(4, "big") for side in shape)
    return bytes([0, 0, 8, len(shape)]) + sides + bytes([value]) * math.prod(shape)


TRAIN, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (TRAIN, start(b"\0\0\x0d\3"), "magic number 0x00000d03, expected 0x000"),
        (TRAIN, start(b"\x89PNG"), "magic number 0x89504e47, expected 0x0000080"),
        (TRAIN_LABELS, start(b"\0\0\x08\3"), "magic number 0x00000803, expected 0x00"),
        (TRAIN_LABELS, lambda _: b"", "magic number 0x, expected 0x00000801"),
        (TEST, cut(1), r"expected 15,680 bytes for \(20, 28, 28\), found 15,679"),
        (TEST, lambda data: data + b"x", "found more"),
        (TEST, lambda data: data[:10], "truncated in its header"),
        (TEST, start(b"\0\0\x08\3" + b"\xff" * 12), "more than 268,435,456 bytes"),
        (TEST, lambda _: idx(0, 28, 28), "expected some with pixels"),
        (TEST_LABELS, lambda _: idx(19), "19 labels, but 20 images in t10k-"),
        (TEST_LABELS, lambda _: idx(20, value=11), "label 11 of image 0, expected"),
    ],
)
@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
def test_damaged_idx_files_are_named(
    official: Any,
    tmp_path: Path,
    digits: Any,
    compressed: bool,
    name: str,
    change: Callable[[bytes], bytes],
    words: str,
) -> None:
    files = official.idx_files(digits, packed=compressed)
    name += ".gz" * compressed
    data = change(gzip.decompress(files[name]) if compressed else files[name])
    files[name] = gzip.compress(data) if compressed else data
    with pytest.raises(DatasetError, match=rf"raw: {name}: .*({words})") as caught:
        read(official.write(tmp_path / "raw", files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [cut(4), cut(300), lambda data: data[:-8] + bytes(4) + data[-4:], lambda data: data[:5]],
    ids=["torn trailer", "torn", "wrong checksum", "torn header"],
)
def test_a_damaged_gz_is_named(
    official: Any, tmp_path: Path, digits: Any, change: Callable[[bytes], bytes]
) -> None:
    files = official.idx_files(digits)
    name = f"{TRAIN}.gz"
    with pytest.raises(DatasetError, match=f"raw: {name}: "):
        read(official.write(tmp_path / "raw", files | {name: change(files[name])}))


@pytest.mark.parametrize("file", ["images", "labels"])
def test_a_small_file_of_millions_of_images_is_refused_at_once(
    official: Any, tmp_path: Path, digits: Any, file: str
) -> None:
    count = 50_000_000
    sides = bytes([0, 0, 0, 1] * 2) if file == "images" else b""
    start = bytes([0, 0, 8, 3 if sides else 1]) + count.to_bytes(4, "big") + sides
    name = next(name for name in official.idx_files(digits) if file in name)
    files = official.idx_files(digits) | {name: gzip.compress(start + bytes(count), 1)}
    tracemalloc.start()
    with pytest.raises(DatasetError, match=f"{name}: claims 50,000,000 images, expected at most"):
        read(official.write(tmp_path / "raw", files))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def relabelled(truth: Any, targets: NDArray[np.int64]) -> Any:
    return truth | {"train": (truth["train"][0], targets)}


def test_a_class_without_training_images_is_refused(
    official: Any, tmp_path: Path, digits: Any
) -> None:
    files = official.idx_files(relabelled(digits, np.arange(60) % 9))
    with pytest.raises(DatasetError, match="no readable training image of class 9"):
        read(official.write(tmp_path / "raw", files))


def test_a_single_class_is_refused(official: Any, tmp_path: Path, digits: Any) -> None:
    files = official.idx_files(relabelled(digits, np.zeros(60, np.int64)))
    with pytest.raises(DatasetError, match="training image of class 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        read(official.write(tmp_path / "raw", files))


def test_a_failed_read_leaves_no_cache(
    official: Any, tmp_path: Path, digits: Any, private_cache: Path
) -> None:
    path = official.write(tmp_path / "raw", official.idx_files(digits))
    (path / f"{TEST_LABELS}.gz").write_bytes(b"")
    with pytest.raises(DatasetError):
        read(path)
    assert not list(private_cache.glob("raw-*"))
    assert read(official.write(path, official.idx_files(digits))).official == "mnist"

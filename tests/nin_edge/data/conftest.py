"""Folders of images, and the official data sets in small, for the tests of the data room."""

from __future__ import annotations

import gzip
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nin_edge.data import Dataset

Files = dict[str, bytes]
Truth = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]
"""Images (N, ...) and targets (N,) of each file."""


@pytest.fixture
def pair(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """Two classes of ten images, without a split."""
    return make_folder(tmp_path / "pair", {"circle": 10, "square": 10})


@pytest.fixture
def split_pair(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """Two classes of eight training and three test images."""
    counts = {f"{split}/{label}": n for split, n in (("train", 8), ("test", 3)) for label in "ab"}
    return make_folder(tmp_path / "split", counts)


def random_images(classes: int, counts: Mapping[str, int], shape: tuple[int, ...]) -> Truth:
    """Random images, and targets that take every class in turn, for some files."""
    rng = np.random.default_rng(len(counts))
    return {
        name: (
            rng.integers(0, 256, (count, *shape), dtype=np.uint8),
            rng.permutation(np.arange(count) % classes),
        )
        for name, count in counts.items()
    }


@pytest.fixture(scope="session")
def cifar10() -> Truth:
    counts = dict.fromkeys([f"data_batch_{number}" for number in range(1, 6)], 10)
    return random_images(10, {**counts, "test_batch": 20}, (3, 32, 32))


@pytest.fixture(scope="session")
def cifar100() -> Truth:
    return random_images(100, {"train": 300, "test": 100}, (3, 32, 32))


@pytest.fixture(scope="session")
def digits() -> Truth:
    return random_images(10, {"train": 60, "t10k": 20}, (28, 28))


@pytest.fixture(scope="session")
def official() -> type[Official]:
    """Makes the files of official data sets, and checks what was read from them."""
    return Official


class Official:
    """The official data sets in small; fixtures give it to the tests."""

    CIFAR10 = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    CIFAR100 = tuple(f"class {number:02}" for number in range(100))
    CLOTHES = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    @staticmethod
    def binary(truth: Truth) -> Files:
        """CIFAR's binary form; CIFAR-100's coarse labels are all 19."""
        coarse = b"\x13" if "train" in truth else b""
        files = {
            f"{name}.bin": b"".join(
                coarse + bytes([target]) + image.tobytes()
                for image, target in zip(pixels, targets, strict=True)
            )
            for name, (pixels, targets) in truth.items()
        }
        if coarse:
            files["fine_label_names.txt"] = "\n".join([*Official.CIFAR100, ""]).encode()
            files["coarse_label_names.txt"] = b"aquatic_mammals\nfish\n"
        else:
            files["batches.meta.txt"] = "\n".join([*Official.CIFAR10, "", ""]).encode()
        return files | {"readme.html": b"<html>"}

    @staticmethod
    def python(truth: Truth, dump: Callable[[Any], bytes] | None = None) -> Files:
        """CIFAR's python form."""
        dump = dump or Official.pickled
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
        names = list(Official.CIFAR100 if fine else Official.CIFAR10)
        files["meta" if fine else "batches.meta"] = dump(
            {f"{fine}label_names": names, "num_vis": 3072}
        )
        return files

    @staticmethod
    def pickled(value: Any) -> bytes:
        """A pickle as Python 2 and the NumPy of its time wrote it."""
        return b"\x80\x02" + Official.opcodes(value) + b"."

    @staticmethod
    def opcodes(value: Any) -> bytes:
        """The opcodes of a value in such a pickle."""
        opcodes = Official.opcodes
        if isinstance(value, dict):
            items = b"".join(opcodes(key) + opcodes(item) for key, item in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, str):
            return opcodes(value.encode())
        if isinstance(value, bytes):
            return b"T" + struct.pack("<i", len(value)) + value
        if value is None:
            return b"N"
        array = np.ascontiguousarray(value)
        dtype = b"cnumpy\ndtype\n" + opcodes(("u1", 0, 1)) + b"R"
        dtype += opcodes((3, "|", None, None, None, -1, -1, 0)) + b"b"
        state = b"(" + opcodes(1) + opcodes(array.shape) + dtype + opcodes(False)
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + opcodes((0,))
        return start + opcodes("b") + b"tR" + state + opcodes(array.tobytes()) + b"tb"

    @staticmethod
    def pickled_anew(protocol: int) -> Callable[[Any], bytes]:
        """A function that writes pickles as this Python and NumPy do."""
        return lambda value: pickle.dumps(value, protocol=protocol)

    @staticmethod
    def idx(values: NDArray[Any]) -> bytes:
        """One idx file."""
        header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
        return header + values.astype(np.uint8).tobytes()

    @staticmethod
    def idx_files(truth: Truth, *, separator: str = "-", packed: bool = True) -> Files:
        """MNIST's files."""
        files = {}
        for split, arrays in truth.items():
            for what, values in zip(("images", "labels"), arrays, strict=True):
                name = f"{split}-{what}{separator}idx{values.ndim}-ubyte"
                data = Official.idx(values)
                files[name + ".gz" * packed] = gzip.compress(data, 1) if packed else data
        return files

    @staticmethod
    def write(folder: Path, files: Files) -> Path:
        """Write files to a folder, which it gives back."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder

    @staticmethod
    def packed(folder: Path, archive: Path) -> Path:
        """Write a folder to an archive, under its own name, as the official ones are."""
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive, "w") as zipped:
                for file in sorted(folder.iterdir()):
                    zipped.write(file, f"{folder.name}/{file.name}")
        else:
            with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
                tar.add(folder, folder.name)
        return archive

    @staticmethod
    def check(dataset: Dataset, truth: Truth, tests: str, labels: tuple[str, ...]) -> None:
        """Every image is where and what it should be; `tests` is the file with the test split."""
        assert dataset.labels == labels
        places = {name: index for index, name in enumerate(dataset.names)}
        for split, names in (("train", [n for n in truth if n != tests]), ("test", [tests])):
            images = np.concatenate([truth[name][0] for name in names])
            targets = np.concatenate([truth[name][1] for name in names])
            for number, (image, target) in enumerate(zip(images, targets, strict=True)):
                index = places[f"{split}/{number:05}"]
                assert dataset.targets[index] == target
                assert (index in dataset.test) == (split == "test")
                expected = image.transpose(1, 2, 0) if image.ndim == 3 else image[:, :, np.newaxis]
                assert np.array_equal(dataset.images[index], expected)

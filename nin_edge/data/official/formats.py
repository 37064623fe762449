"""The official archives of CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST, known by their files.

    CIFAR, binary   records of one label byte (CIFAR-100: coarse, then fine) and 3 x 32 x 32 bytes
    CIFAR, python   pickles of a dictionary with an array and a list of labels
    MNIST           idx: two zeros, 8 for bytes, the number of dimensions, the dimensions, the bytes

CIFAR-100's classes are the hundred fine ones. Fashion-MNIST's files are named and made as MNIST's,
so a name has to tell: of the folder or archive, of the folder above it, or of one in it.
"""

from __future__ import annotations

import gzip
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nin_edge.data.official import unpickle
from nin_edge.data.sources import DatasetError, Source

TITLES: Final = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
}
"""The data sets that are known by name, and what they are called."""

ARCHIVES: Final = {
    "cifar-10-binary.tar.gz": "cifar10",
    "cifar-10-python.tar.gz": "cifar10",
    "cifar-100-binary.tar.gz": "cifar100",
    "cifar-100-python.tar.gz": "cifar100",
}
"""Names that archives are published under; a folder that holds one stands for it."""

SHAPES: Final = {
    "cifar10": (32, 3),
    "cifar100": (32, 3),
    "mnist": (28, 1),
    "fashion-mnist": (28, 1),
}
"""Side and channels of their images."""

_CLASSES: Final = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
_COUNTS: Final = {"cifar10": 10, "cifar100": 100}  # classes
_SIDE: Final = 32  # of CIFAR's images
_LARGEST: Final = 1 << 31  # bytes that an idx file may claim to unpack to


@dataclass(frozen=True)
class Part:
    """Images of one split, in the order of their file."""

    split: str
    """`train` or `test`."""
    pixels: NDArray[np.uint8]
    """(N, H, W, C)."""
    targets: NDArray[np.int64]
    """(N,), indices into the labels."""


@dataclass(frozen=True)
class Official:
    """What an official archive holds."""

    labels: tuple[str, ...]
    """Class names in the archive's own order."""
    parts: tuple[Part, ...]
    """The images; those to train on first."""


@dataclass(frozen=True)
class _Form:
    """A form that a data set is published in."""

    kind: str
    """A key of `TITLES`; `mnist` for all idx files."""
    train: tuple[str, ...]
    """Files with the training images, in their order."""
    test: tuple[str, ...]
    """Files with the test images."""
    meta: str | None
    """File with the class names."""
    read: Callable[[str, _Form, _Files], Official]
    """Reads its files, as the kind that is asked for."""

    def names(self) -> tuple[str, ...]:
        """All files that have to be there."""
        return (*self.train, *self.test, *([self.meta] if self.meta else []))


@dataclass(frozen=True)
class Found:
    """A data set in a form that is known, in a folder or archive."""

    kind: str
    """A key of `TITLES`."""
    members: dict[str, str]
    """Path of each of its files in the source, by the file's official name."""
    form: _Form
    """Which form."""


class _Files:
    """The bytes of a data set's files, each given once, so that few of them are held at a time."""

    def __init__(self, path: Path, source: Source, members: dict[str, str]) -> None:
        self._path, self._members = path, members
        self._data = dict(source.read(set(members.values())))

    @contextmanager
    def taken(self, name: str) -> Iterator[bytes]:
        """A file's bytes; what a reader says is wrong with them becomes an error that names it."""
        member = self._members[name]
        try:
            yield self._data.pop(member)
        except (ValueError, OSError, EOFError, MemoryError) as error:
            raise DatasetError(f"{self._path}: {member}: {error or 'too large'}") from error
        except Exception as error:  # zlib.error has no common base with these
            raise DatasetError(f"{self._path}: {member}: damaged ({error})") from error


def find(
    path: Path, names: Sequence[str], kind: str | None, *, pictures: bool = False
) -> Found | None:
    """Look for the files of an official archive among a source's.

    Args:
        path: the folder or archive; its name can tell Fashion-MNIST from MNIST.
        names: what is in it, see `Source.names`.
        kind: a key of `TITLES` that it has to be, or None.
        pictures: whether there are image files too, which make it a folder of images if `kind` is
            None and no official archive is complete.

    Returns:
        What was found, or None if nothing was and `kind` is None.

    Raises:
        DatasetError: files are missing, it is not of `kind`, or it could be several things.
    """
    found = [*_candidates(path, names)]
    if kind is None:
        if pictures:
            found = [one for one in found if len(one.members) == len(one.form.names())]
        held = [TITLES[one] for one in sorted({candidate.kind for candidate in found})]
        if len(held) + (pictures and bool(held)) > 1:
            raise DatasetError(
                f"{path}: holds {' and '.join([*held, *['image files'] * pictures])}; "
                "say which by --dataset, or name the folder of one"
            )
    else:
        by_files = "mnist" if kind == "fashion-mnist" else kind
        named = [candidate for candidate in found if candidate.kind == kind]
        found = named or [one for one in found if one.form.kind == by_files]
        if not found:
            forms = [form for form in _FORMS if form.kind == by_files]
            raise DatasetError(
                f"{path}: not {TITLES[kind]}, expected the files "
                + " or ".join(", ".join(form.names()) for form in forms)
            )
    if not found:
        return None
    chosen = found[0]  # of a data set in two forms, the simpler one
    if len([one for one in found if one.form is chosen.form]) > 1:
        raise DatasetError(
            f"{path}: holds {TITLES[chosen.kind]} more than once, name the folder of one"
        )
    if missing := [name for name in chosen.form.names() if name not in chosen.members]:
        raise DatasetError(
            f"{path}: an incomplete {TITLES[kind or chosen.kind]}, without {', '.join(missing)}"
        )
    return Found(kind or chosen.kind, chosen.members, chosen.form)


def read(path: Path, source: Source, found: Found) -> Official:
    """Read what was found.

    Raises:
        DatasetError: a file is damaged or is not what its name says; the message names it.
    """
    return found.form.read(found.kind, found.form, _Files(path, source, found.members))


def is_part(name: str) -> bool:
    """Whether a file's name is that of one file among several of an official archive."""
    return any(_official_name(name) in form.names() for form in _FORMS)


def says_fashion(path: Path) -> bool:
    """Whether the name of a folder or archive, or of the folder above it, is Fashion-MNIST's."""
    real = path.resolve()
    return any(_is_fashion(name) for name in (real.name, real.parent.name))


def _is_fashion(name: str) -> bool:
    return re.search(r"fashion[-_. ]?mnist", name, re.IGNORECASE) is not None


def _official_name(name: str) -> str:
    """A file's name as it is published; `train-images.idx3-ubyte` is as common for MNIST's."""
    dashed = re.sub(r"(?<=-(?:images|labels))\.(?=idx\d-ubyte)", "-", name)
    return re.sub(r"(?<=-ubyte)\.gz$", "", dashed)


def _candidates(path: Path, names: Sequence[str]) -> Iterator[Found]:
    """Every folder of the source that holds at least two files of a form."""
    folders: dict[PurePosixPath, dict[str, str]] = defaultdict(dict)
    for name in names:
        inner = PurePosixPath(name)
        if name.endswith("/") or any(
            part.startswith(".") or part == "__MACOSX" for part in inner.parts
        ):
            continue
        # What is unpacked already comes before its .gz.
        folders[inner.parent].setdefault(_official_name(inner.name), name)
    for form in _FORMS:
        for folder, files in folders.items():
            members = {name: files[name] for name in form.names() if name in files}
            if len(members) < 2:
                continue
            fashion = says_fashion(path) or any(map(_is_fashion, folder.parts))
            kind = "fashion-mnist" if form.kind == "mnist" and fashion else form.kind
            yield Found(kind, members, form)


# --- CIFAR ----------------------------------------------------------------------------------------


def _read_binary(kind: str, form: _Form, files: _Files) -> Official:
    assert form.meta is not None
    with files.taken(form.meta) as data:
        labels = _labels(kind, data.decode("utf-8", "replace").split("\n"))
    leading = 2 if kind == "cifar100" else 1  # label bytes; the last one is the fine class
    row = leading + 3 * _SIDE * _SIDE
    parts = []
    for split, name in _split_names(form):
        with files.taken(name) as data:
            if not data or len(data) % row:
                raise ValueError(f"{len(data):,} bytes, expected records of {row:,}")
            records = np.frombuffer(data, np.uint8).reshape(-1, row)
            targets = _targets(records[:, leading - 1], len(labels))
            parts.append(Part(split, _planes(records[:, leading:]), targets))
    return Official(labels, tuple(parts))


def _read_python(kind: str, form: _Form, files: _Files) -> Official:
    assert form.meta is not None
    fine = "fine_" if kind == "cifar100" else ""
    with files.taken(form.meta) as data:
        names = _entry(unpickle.load(data), f"{fine}label_names")
        labels = _labels(kind, [unpickle.text(name) for name in _a_list(names)])
    parts = []
    for split, name in _split_names(form):
        with files.taken(name) as data:
            entries = unpickle.load(data)
            pixels = unpickle.array(_entry(entries, "data"))
            if pixels.ndim != 2 or pixels.shape[1] != 3 * _SIDE * _SIDE or not len(pixels):
                raise ValueError(f"an array of shape {pixels.shape}, expected (N, 3072)")
            numbers = _a_list(_entry(entries, f"{fine}labels"))
            if not all(isinstance(number, int) for number in numbers):
                raise ValueError("its labels are not whole numbers")
            targets = _targets(numbers, len(labels))
            if len(targets) != len(pixels):
                raise ValueError(f"{len(pixels):,} images but {len(targets):,} labels")
            parts.append(Part(split, _planes(pixels), targets))
    return Official(labels, tuple(parts))


def _split_names(form: _Form) -> list[tuple[str, str]]:
    return [*(("train", name) for name in form.train), *(("test", name) for name in form.test)]


def _planes(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Three planes one after the other, as a view of images."""
    return rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)  # (N, 3072) -> (N, 32, 32, 3)


def _labels(kind: str, lines: Sequence[str]) -> tuple[str, ...]:
    labels = tuple(line.strip() for line in lines if line.strip())
    if len(labels) != _COUNTS[kind] or len(set(labels)) != len(labels):
        raise ValueError(
            f"{len(set(labels))} different class names, expected {TITLES[kind]}'s {_COUNTS[kind]}"
        )
    return labels


def _targets(numbers: Any, classes: int) -> NDArray[np.int64]:
    """Labels as an array; those that are out of range are an error."""
    try:
        targets = np.array(numbers, dtype=np.int64)
    except OverflowError:
        raise ValueError("a label that is no class") from None
    outside = np.flatnonzero((targets < 0) | (targets >= classes))
    if len(outside):
        place = outside[0]
        raise ValueError(f"label {targets[place]} of image {place:,}, expected 0 to {classes - 1}")
    return targets


def _entry(entries: dict[str, Any], name: str) -> Any:
    if name not in entries:
        raise ValueError(f"its pickle has no {name!r}")
    return entries[name]


def _a_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{type(value).__name__} in its pickle, expected a list")
    return value


# --- MNIST ----------------------------------------------------------------------------------------


def _read_idx(kind: str, form: _Form, files: _Files) -> Official:
    labels = _CLASSES[kind]
    parts = []
    for split, (images, numbers) in (("train", form.train), ("test", form.test)):
        with files.taken(images) as data:
            pixels = _idx(data, dimensions=3)
            if not pixels.size:
                raise ValueError(f"images of shape {pixels.shape}, expected some with pixels")
        with files.taken(numbers) as data:
            targets = _targets(_idx(data, dimensions=1), len(labels))
            if len(targets) != len(pixels):
                raise ValueError(f"{len(targets):,} labels, but {len(pixels):,} images in {images}")
        parts.append(Part(split, pixels[..., np.newaxis], targets))
    return Official(labels, tuple(parts))


def _idx(data: bytes, dimensions: int) -> NDArray[np.uint8]:
    """An array of bytes from an idx file, gzip or not."""
    packed = data.startswith(b"\x1f\x8b")
    file: Any = gzip.GzipFile(fileobj=io.BytesIO(data)) if packed else io.BytesIO(data)
    magic, expected = file.read(4), bytes([0, 0, 8, dimensions])
    if magic != expected:
        raise ValueError(f"magic number 0x{magic.hex()}, expected 0x{expected.hex()}")
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise ValueError("truncated in its header")
    shape = [int(side) for side in np.frombuffer(header, ">u4")]
    if math.prod(shape) > _LARGEST:
        raise ValueError(f"claims the shape {tuple(shape)}, more than 2 GiB")
    found = file.read(math.prod(shape) + 1)  # with gzip's checksum behind it
    if len(found) != math.prod(shape):
        more = "more" if len(found) > math.prod(shape) else f"{len(found):,}"
        raise ValueError(f"expected {math.prod(shape):,} bytes for {tuple(shape)}, found {more}")
    return np.frombuffer(found, np.uint8).reshape(shape)


_FORMS: Final = (
    _Form(
        "cifar10",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        _read_binary,
    ),
    _Form(
        "cifar10",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        _read_python,
    ),
    _Form("cifar100", ("train.bin",), ("test.bin",), "fine_label_names.txt", _read_binary),
    _Form("cifar100", ("train",), ("test",), "meta", _read_python),
    _Form(
        "mnist",
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        None,
        _read_idx,
    ),
)
"""Simpler forms first."""

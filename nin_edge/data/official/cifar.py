"""CIFAR-10 and CIFAR-100 in the two forms that they are published in.

    binary   records of one label byte (CIFAR-100: coarse, then fine) and 3 x 32 x 32 bytes
    python   pickles of a dictionary with an array and a list of labels

CIFAR-100's classes are the hundred fine ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nin_edge.data.official import unpickle
from nin_edge.data.official.files import (
    FileSet,
    OfficialData,
    OfficialFiles,
    Part,
    checked_targets,
)

_CLASSES: Final = {"cifar10": 10, "cifar100": 100}
_SIDE: Final = 32  # of the images, in pixels
_BYTES: Final = 3 * _SIDE * _SIDE  # of one image


def read_binary(official: str, file_set: FileSet, files: OfficialFiles) -> OfficialData:
    """Read the binary form.

    Raises:
        DatasetError: a file is damaged; the message names it.
    """
    assert file_set.labels is not None
    with files.taken(file_set.labels) as data:
        labels = _checked_labels(official, data.decode("utf-8", "replace").split("\n"))
    label_bytes = 2 if official == "cifar100" else 1  # the last one is the fine class
    row = label_bytes + _BYTES
    parts = []
    for split, name in file_set.by_split():
        with files.taken(name) as data:
            if not data or len(data) % row:
                raise ValueError(f"{len(data):,} bytes, expected records of {row:,}")
            records = np.frombuffer(data, np.uint8).reshape(-1, row)
            targets = checked_targets(records[:, label_bytes - 1], len(labels))
            parts.append(Part(split, _to_images(records[:, label_bytes:]), targets))
    return OfficialData(labels, tuple(parts))


def read_python(official: str, file_set: FileSet, files: OfficialFiles) -> OfficialData:
    """Read the python form, without running anything that its pickles name.

    Raises:
        DatasetError: a file is damaged, or names a function; the message names the file.
    """
    assert file_set.labels is not None
    fine = "fine_" if official == "cifar100" else ""
    with files.taken(file_set.labels) as data:
        names = _entry(unpickle.load(data), f"{fine}label_names")
        labels = _checked_labels(official, [unpickle.text(name) for name in _as_list(names)])
    parts = []
    for split, name in file_set.by_split():
        with files.taken(name) as data:
            entries = unpickle.load(data)
            pixels = unpickle.array(_entry(entries, "data"))
            if pixels.ndim != 2 or pixels.shape[1] != _BYTES or not len(pixels):
                raise ValueError(f"an array of shape {pixels.shape}, expected (N, {_BYTES})")
            numbers = _as_list(_entry(entries, f"{fine}labels"))
            if not all(isinstance(number, int) for number in numbers):
                raise ValueError("its labels are not whole numbers")
            targets = checked_targets(numbers, len(labels))
            if len(targets) != len(pixels):
                raise ValueError(f"{len(pixels):,} images but {len(targets):,} labels")
            parts.append(Part(split, _to_images(pixels), targets))
    return OfficialData(labels, tuple(parts))


def _to_images(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Three colour planes one after the other, as a view of images."""
    return rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)  # (N, 3072) -> (N, 32, 32, 3)


def _checked_labels(official: str, lines: Sequence[str]) -> tuple[str, ...]:
    labels = tuple(line.strip() for line in lines if line.strip())
    expected = _CLASSES[official]
    if len(labels) != expected or len(set(labels)) != len(labels):
        raise ValueError(f"{len(set(labels))} different class names, expected {expected}")
    return labels


def _entry(entries: Mapping[str, Any], name: str) -> Any:
    if name not in entries:
        raise ValueError(f"its pickle has no {name!r}")
    return entries[name]


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{type(value).__name__} in its pickle, expected a list")
    return value

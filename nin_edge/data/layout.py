"""The images of a source, each with its split and class.

In a folder or archive of images the folders name them: `train/<class>/*` and `test/<class>/*`, or
`<class>/*` alone. The files of an official data set carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from nin_edge.data.decode import ImageData
from nin_edge.data.errors import DatasetError
from nin_edge.data.official.registry import read_official
from nin_edge.data.sources import Source
from nin_edge_runtime.folders import Listing

_SPLITS: Final = {"train", "test"}
_TRAINING_NAMES: Final = {"train", "training"}
_UNKNOWN_SPLITS: Final = {"val", "valid", "validation", "dev", "testing"}


@dataclass(frozen=True)
class Member:
    """One image of a source."""

    name: str
    """Its path in the source; `train/00017` in an official data set."""
    split: str
    """`train` or `test`; empty where the data set names no splits."""
    label: str
    """Its class."""


@dataclass(frozen=True)
class Contents:
    """All images of a source."""

    members: Sequence[Member]
    """The images that have a class."""
    labels: tuple[str, ...]
    """The classes in their order, also those without images."""
    unclassed: tuple[str, ...]
    """Image files outside the folders of the classes."""
    read: Callable[[], Iterator[tuple[str, ImageData]]]
    """Gives name and content of each member, in any order."""


def official_contents(path: Path, source: Source, official: str) -> Contents:
    """The images of an official data set.

    Raises:
        DatasetError: it is another data set, or incomplete, or a file is damaged.
    """
    data = read_official(path, source, official)
    members: list[Member] = []
    pixels: list[ImageData] = []
    counts = {"train": 0, "test": 0}
    for part in data.parts:
        for image, target in zip(part.pixels, part.targets, strict=True):
            # Numbered by split, not by file: the same in every form of the data set.
            name = f"{part.split}/{counts[part.split]:05}"
            counts[part.split] += 1
            members.append(Member(name, part.split, data.labels[target]))
            pixels.append(image)
    names = [member.name for member in members]
    return Contents(members, data.labels, (), lambda: zip(names, pixels, strict=True))


def folder_contents(path: Path, source: Source) -> Contents:
    """The images of a folder or archive of images.

    Raises:
        DatasetError: no images, splits with unknown names, a class whose name is not text.
    """
    files, folders = _image_files(path, source.listing)
    splits = _split_folders(path, {parts[0] for _, parts in files if len(parts) > 1}, folders)
    depth = 2 if splits else 1  # of the class in a path: <split>/<class> or <class>
    members, unclassed = [], []
    for name, parts in files:
        if len(parts) <= depth:
            unclassed.append(name)
        else:
            members.append(Member(name, splits[parts[0]] if splits else "", parts[depth - 1]))
    labels = {member.label for member in members}
    labels |= {parts[depth - 1] for parts in folders if len(parts) == depth}
    for label in labels:
        if not _is_text(label):
            raise DatasetError(f"{path}: the folder name {label!r} is not UTF-8, expected a label")
    wanted = {member.name for member in members}
    return Contents(members, tuple(sorted(labels)), tuple(unclassed), lambda: source.read(wanted))


def _image_files(
    path: Path, listing: Listing
) -> tuple[list[tuple[str, tuple[str, ...]]], list[tuple[str, ...]]]:
    """Image files with the parts of their paths, and folders, below those that hold all images."""
    entries = [(name, PurePosixPath(name).parts) for name in listing.names]
    folders = [parts for name, parts in entries if name.endswith("/") and parts]
    files = [(name, parts) for name, parts in entries if name in listing.images]
    if not files:
        passed = listing.passed_over()
        raise DatasetError(
            f"{path}: no image files in it{f' (only {passed})' if passed else ''}, expected "
            "<class>/*.jpg or train/<class>/*.jpg, or the files of CIFAR-10, CIFAR-100, MNIST or "
            "Fashion-MNIST"
        )
    # Archives usually hold one folder that holds the rest.
    while len({parts[0] for _, parts in files}) == 1 and all(len(parts) > 2 for _, parts in files):
        if {parts[0].lower() for parts in folders} >= _SPLITS:
            break  # train, beside an empty test
        top = files[0][1][0]
        files = [(name, parts[1:]) for name, parts in files]
        folders = [parts[1:] for parts in folders if parts[0] == top and len(parts) > 1]
    return files, folders


def _split_folders(
    path: Path, tops: set[str], folders: Sequence[tuple[str, ...]]
) -> dict[str, str]:
    """The split that each top folder names; empty where the top folders are classes."""
    tops = tops | {parts[0] for parts in folders}
    splits = {top: top.lower() for top in tops if top.lower() in _SPLITS}
    if set(splits.values()) == _SPLITS and len(splits) == len(_SPLITS):
        if extra := sorted(tops - set(splits)):
            raise DatasetError(
                f"{path}: found {', '.join(extra)} beside train and test, expected only these two"
            )
        return splits
    lower = {top.lower() for top in tops}
    if lower & _TRAINING_NAMES and lower & _UNKNOWN_SPLITS:
        raise DatasetError(
            f"{path}: found {', '.join(sorted(tops))}, expected train and test "
            "(a hold-out is taken from train)"
        )
    return {}


def _is_text(name: str) -> bool:
    """Whether a name can be written down: the file system also knows bytes that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

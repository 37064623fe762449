"""The images of a source, each with its split and class.

In a folder or archive of images the folders name them (`nin_edge.data.folders`), or a table does
(`nin_edge.data.table`). The files of an official data set carry them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from nin_edge.data.decode import ImageData
from nin_edge.data.errors import DatasetError
from nin_edge.data.folders import SPLIT_NAMES, read_layout
from nin_edge.data.official.registry import read_official
from nin_edge.data.sources import Source
from nin_edge.data.table import find_images, read_table
from nin_edge.text import is_utf8
from nin_edge_runtime.folders import Listing
from nin_edge_runtime.model_file.limits import MAX_LABEL

_COCO: Final = re.compile(r"annotation|coco|instances_|via_")
_ANNOTATION_SUFFIXES: Final = (".txt", ".xml", ".json")  # YOLO, Pascal VOC, LabelMe: one an image


@dataclass(frozen=True)
class Member:
    """One image of a source."""

    name: str
    """Its path in the source; `train/00017` in an official data set."""
    split: str
    """`train`, `validation` or `test`; empty where the data set names no splits."""
    label: str
    """Its class."""


@dataclass(frozen=True)
class Contents:
    """All images of a source."""

    members: Sequence[Member]
    """The images that have a class."""
    labels: tuple[str, ...]
    """The classes in their order, also those without images."""
    splits: tuple[str, ...]
    """The splits that it names: some of `train`, `validation`, `test`, or none."""
    unclassed: tuple[tuple[str, str], ...]
    """(path, reason) of each image file without a class."""
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
    return Contents(
        members,
        labels=data.labels,
        splits=tuple(counts),
        unclassed=(),
        read=lambda: zip(names, pixels, strict=True),
    )


def folder_contents(path: Path, source: Source) -> Contents:
    """The images of a folder or archive of images.

    Raises:
        DatasetError: no images, folders that could be splits or classes, a class whose name is not
            text.
    """
    listing = source.listing
    entries = [(name, PurePosixPath(name).parts) for name in listing.names]
    files = [(name, parts) for name, parts in entries if name in listing.images]
    if not files:
        passed = listing.passed_over()
        raise DatasetError(
            f"{path}: no image files in it{f' (only {passed})' if passed else ''}, expected "
            "<class>/*.jpg or train/<class>/*.jpg, or the files of CIFAR-10, CIFAR-100, MNIST or "
            "Fashion-MNIST"
        )
    folders = [
        parts
        for name, parts in entries
        if name.endswith("/") and name not in listing.without_images
    ]
    layout = read_layout(path, files, folders)
    members = []
    unclassed = [
        (folder, f"{count:,} images without classes; nin-edge run labels them")
        for folder, count in layout.unlabelled.items()
    ]
    for file in layout.files:
        if len(file.below) < 2:
            unclassed.append((file.name, "outside the folders of the classes"))
        else:
            members.append(Member(file.name, file.split, file.below[0]))
    labels = {member.label for member in members} | {folder.below[0] for folder in layout.folders}
    if len(labels) < 2 and (annotations := _annotations(listing)):
        raise DatasetError(
            f"{path}: looks like a data set for detection or segmentation ({annotations}), "
            "expected one class an image; cut the objects out, into a folder for each class"
        )
    if not members:
        raise DatasetError(
            f"{path}: {len(files):,} images and no folder of a class, expected <class>/* or "
            "train/<class>/*, or a table of the images' classes by --labels FILE.csv"
        )
    _check_labels(path, labels)
    wanted = {member.name for member in members}
    return Contents(
        members,
        labels=tuple(sorted(labels)),
        splits=layout.splits,
        unclassed=tuple(unclassed),
        read=lambda: source.read(wanted),
    )


def table_contents(path: Path, source: Source, table: Path) -> Contents:
    """The images of a folder or archive with the classes that a table gives them.

    Raises:
        DatasetError: the table cannot be read, or does not fit the images.
    """
    listing = source.listing
    names = [name for name in listing.names if not name.endswith("/")]
    rows = find_images(table, read_table(table), path, names)
    members = [Member(name, row.split, row.label) for name, row in rows.items()]
    named = tuple(name for name in SPLIT_NAMES if any(row.split == name for row in rows.values()))
    _check_labels(table, {member.label for member in members})
    unlisted = [name for name in names if name not in rows and name in listing.images]
    return Contents(
        members,
        labels=tuple(sorted({member.label for member in members})),
        splits=named,
        unclassed=tuple((name, f"not in {table.name}") for name in unlisted),
        read=lambda: source.read(rows.keys()),
    )


def _annotations(listing: Listing) -> str:
    """What in a folder or archive marks objects in its images, in words; empty if nothing does."""
    others = [PurePosixPath(name) for name in listing.names if name not in listing.images]
    for other in others:
        if other.suffix.lower() == ".json" and _COCO.search(other.name.lower()):
            return str(other)
    images = {PurePosixPath(name).stem for name in listing.images}
    for suffix in _ANNOTATION_SUFFIXES:
        files = {other.stem: other for other in others if other.suffix.lower() == suffix}
        if (both := sorted(images & files.keys())) and 2 * len(both) >= len(images):
            return f"{files[both[0]]}, as for most images"
    return ""


def _check_labels(path: Path, labels: Iterable[str]) -> None:
    """Refuse labels that no checkpoint can have.

    Raises:
        DatasetError: the message names the label.
    """
    for label in labels:
        if not is_utf8(label):
            raise DatasetError(f"{path}: the folder name {label!r} is not UTF-8, expected a label")
        if len(label) > MAX_LABEL:
            raise DatasetError(
                f"{path}: the label {label[:40]!r}... of {len(label):,} characters, expected at "
                f"most {MAX_LABEL:,}"
            )

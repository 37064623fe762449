"""What the folders of a data set mean: splits by their names, else classes; one level of each.

`train/<class>/*` beside `validation/` or `test/`, or `<class>/*` alone. A split has many names:
`val`, `training_set`, `seg_test`. Folders that could be either are refused, never guessed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from nin_edge.data.errors import DatasetError
from nin_edge.text import list_some

Parts: TypeAlias = tuple[str, ...]
"""A path as its parts."""

SPLIT_NAMES: Final = ("train", "validation", "test")
"""The splits that a data set can name."""

_WORDS: Final = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), "test"),
}
_FILLERS: Final = (
    *("set", "sets", "data", "dataset", "split", "folder"),
    *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"),
)
_FILLER_ENDING: Final = re.compile(rf"(?<=.)({'|'.join(_FILLERS)})$")  # `testset`
_EXPECTED: Final = "expected <class>/* or train/<class>/* beside validation/ or test/"
_LISTED: Final = 5  # names of folders in a message
_STRAY: Final = 0.2  # part of a folder's images up to which those outside its subfolders are strays
_MISPLACED: Final = 0.05  # part of all images up to which those in plain folders prove no level


@dataclass(frozen=True)
class Placed:
    """An image or a folder of a data set, and what its path says of it."""

    name: str
    """Its path in the source."""
    split: str
    """One of `SPLIT_NAMES`; empty where the folders name no splits."""
    below: Parts
    """The rest of its path, which begins with the class if it has one."""


@dataclass(frozen=True)
class Layout:
    """What the folders of a data set mean."""

    files: tuple[Placed, ...]
    """The images; one without a class is a file name alone."""
    folders: tuple[Placed, ...]
    """The folders at the classes' level or below it."""
    splits: tuple[str, ...]
    """The splits that the folders name, those without images too."""
    unlabelled: Mapping[str, int]
    """Path of each folder beside the splits whose images have no class, and how many they are."""


def read_layout(path: Path, files: Sequence[tuple[str, Parts]], folders: Sequence[Parts]) -> Layout:
    """Find out which folders are splits, and which are classes.

    Args:
        path: of the data set, for messages.
        files: name and parts of the path of each image, at least one.
        folders: parts of the path of each folder that has images, or nothing at all.

    Raises:
        DatasetError: the folders could be splits or classes, or are one level too many.
    """
    placed = [Placed(name, "", parts) for name, parts in files]
    others = [Placed("", "", parts) for parts in folders if parts]
    placed, others = _without_wrappers(placed, others)
    placed, others = _without_repeats(placed, others)
    splits = _split_folders(path, placed, others)
    unlabelled: Counter[str] = Counter()
    if splits:
        passed = _unlabelled(splits, _grouped(file.below for file in placed))
        splits = {name: split for name, split in splits.items() if name not in passed}
        unlabelled.update(_top(file) for file in placed if file.below[0] in passed)
        placed = [file for file in placed if file.below[0] not in passed]
        placed = [_inside(file, splits) or file for file in placed]
        others = [inner for folder in others if (inner := _inside(folder, splits))]
        placed, others = _without_wrappers(placed, others)
    _check_depth(path, placed, named=bool(splits))
    named = tuple(split for split in SPLIT_NAMES if split in splits.values())
    return Layout(tuple(placed), tuple(others), named, unlabelled)


def split_of(name: str) -> tuple[str, Parts] | None:
    """The split that a folder's name tells, and the name's other words.

    None where it tells none, or several. `Training Set` and `val2017` tell theirs alone, `seg_test`
    has the other word `seg`.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [_FILLER_ENDING.sub("", word) for word in re.findall(r"[^\W\d_]+", spaced.lower())]
    told = [_WORDS[word] for word in words if word in _WORDS]
    rest = tuple(word for word in words if word not in (*_WORDS, *_FILLERS))
    return (told[0], rest) if len(told) == 1 else None


def _top(file: Placed) -> str:
    """The path of an image's first folder below those that are passed."""
    parts = PurePosixPath(file.name).parts
    return "/".join(parts[: len(parts) - len(file.below) + 1]) + "/"


def _inside(item: Placed, splits: Mapping[str, str]) -> Placed | None:
    """An image or folder as it lies in its split's folder; None if it lies in none."""
    top, *below = item.below
    return Placed(item.name, splits[top], tuple(below)) if below and top in splits else None


def _without_wrappers(
    files: list[Placed], folders: list[Placed]
) -> tuple[list[Placed], list[Placed]]:
    """Pass the folders that hold all the rest: archives usually have one."""
    while all(len(file.below) > 2 for file in files):
        tops = {file.below[0] for file in files}
        told = {split_of(top) for top in tops | {folder.below[0] for folder in folders}}
        if len(tops) > 1 or len(told - {None}) > 1:  # train beside an empty test
            break
        files = [Placed(file.name, file.split, file.below[1:]) for file in files]
        folders = [
            Placed("", folder.split, folder.below[1:])
            for folder in folders
            if folder.below[0] in tops and len(folder.below) > 1
        ]
    return files, folders


def _without_repeats(
    files: list[Placed], folders: list[Placed]
) -> tuple[list[Placed], list[Placed]]:
    """Pass a folder that holds nothing but one of its own name: `training_set/training_set/`."""
    inner = _grouped(file.below for file in files)
    repeats = {
        top
        for top, below in inner.items()
        if all(len(parts) > 2 and parts[0].lower() == top.lower() for parts in below)
    }

    def passed(items: Iterable[Placed]) -> list[Placed]:
        return [
            Placed(item.name, item.split, item.below[1:])
            if item.below[0] in repeats and len(item.below) > 1
            else item
            for item in items
        ]

    return passed(files), passed(folders)


def _split_folders(
    path: Path, files: Sequence[Placed], folders: Sequence[Placed]
) -> Mapping[str, str]:
    """The split that each top folder names; empty where the top folders are classes."""
    inner = _grouped(file.below for file in files)
    names = {*inner, *(folder.below[0] for folder in folders)}
    groups: dict[Parts, dict[str, str]] = defaultdict(dict)
    for name in sorted(names):
        if told := split_of(name):
            groups[told[1]][name] = told[0]
    for rest, splits in groups.items():
        if len(splits) < 2 or not _are_splits(rest, splits, inner):
            continue
        if len(set(splits.values())) < len(splits):
            raise DatasetError(
                f"{path}: {_listed(splits)} name the same split, expected one folder for each of "
                f"{', '.join(SPLIT_NAMES)}"
            )
        if extra := set(inner) - set(splits) - _unlabelled(splits, inner):
            raise DatasetError(
                f"{path}: found {_listed(extra)} beside {_listed(splits)}, expected only folders "
                f"for {', '.join(SPLIT_NAMES)}"
            )
        return splits
    return {}


def _are_splits(rest: Parts, splits: Mapping[str, str], inner: Mapping[str, list[Parts]]) -> bool:
    """Whether folders whose names tell splits, with the same other words, are splits."""
    others = set(inner) - set(splits) - _unlabelled(splits, inner)
    if "train" in splits.values() and not (rest and others):
        return True
    classes = [_subfolders(inner[top]) for top in splits if top in inner]
    return len(classes) == len(splits) and bool(classes[0]) and len(set(classes)) == 1


def _unlabelled(splits: Mapping[str, str], inner: Mapping[str, list[Parts]]) -> set[str]:
    """The top folders but the training split's whose images lie in none of the classes' folders."""
    classes = {name for top in splits if top in inner for name in _branches(inner[top])}
    return {
        top
        for top, below in inner.items()
        if classes
        and splits.get(top) != "train"
        and not _branches(below)
        and classes.isdisjoint(part for parts in below for part in parts[:-1])
    }


def _check_depth(path: Path, files: Sequence[Placed], *, named: bool) -> None:
    """Refuse folders of classes that hold folders of classes.

    Raises:
        DatasetError: no class holds its images directly; the message says what they hold.
    """
    inner = _grouped(file.below for file in files)
    plain = sum(len(below) for below in inner.values() if not _subfolders(below))
    if plain > _MISPLACED * sum(map(len, inner.values())):
        return
    branches = {top: _branches(below) for top, below in sorted(inner.items())}
    if not any(branches.values()):
        return  # <class>/images/*
    shown = list(branches.items())[:2]
    held = "; ".join(f"{top} holds {_listed(names) or 'images'}" for top, names in shown)
    more = f"; and {len(branches) - 2} more" if len(branches) > 2 else ""
    if not named and len(branches) > len(set(branches.values())) == 1:
        raise DatasetError(
            f"{path}: {_listed(branches)} hold the same folders ({_listed(shown[0][1])}): classes "
            f"or splits? {_EXPECTED}; rename them, or name one of them as DATA"
        )
    raise DatasetError(
        f"{path}: one level of folders too many ({held}{more}): {_EXPECTED}; name one of them as "
        "DATA, or move the classes up"
    )


def _grouped(paths: Iterable[Parts]) -> dict[str, list[Parts]]:
    """The rest of each path by its first folder; without files that lie in no folder."""
    inner: dict[str, list[Parts]] = defaultdict(list)
    for parts in paths:
        if len(parts) > 1:
            inner[parts[0]].append(parts[1:])
    return inner


def _subfolders(below: Sequence[Parts]) -> frozenset[str]:
    """Names of the folders in a folder; empty if its images lie directly in it, not just strays."""
    if sum(len(parts) == 1 for parts in below) > _STRAY * len(below):
        return frozenset()
    return frozenset(parts[0] for parts in below if len(parts) > 1)


def _branches(below: Sequence[Parts]) -> frozenset[str]:
    """Names of the folders where the content of a folder first divides; empty at an image."""
    while len(names := _subfolders(below)) == 1:
        below = [parts[1:] for parts in below if len(parts) > 1]
    return names


def _listed(names: Iterable[str]) -> str:
    return list_some(sorted(names), _LISTED)

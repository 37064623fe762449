"""Labelled images by path or name -> arrays, decoded in parallel, cached on the disk.

A data set is `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone, from which a fifth is
then set aside as the test split; or it is one of the official archives of `formats.py`. It may lie
in a folder or in a `.tar`, `.tar.gz`, `.tar.bz2`, `.tar.xz` or `.zip`, which is read in place.
Images go through the runtime's own `image.py`, so a network is trained on the very pixels a device
will give it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import PIL
from numpy.typing import NDArray

from nin_edge.data import download
from nin_edge.data.decode import Picture, decode
from nin_edge.data.official import formats
from nin_edge.data.sources import DatasetError as DatasetError
from nin_edge.data.sources import Source
from nin_edge.data.sources import open_source as open_source
from nin_edge_runtime.image import IMAGE_SUFFIXES
from nin_edge_runtime.threads import usable_threads

KINDS: Final = ("folder", *formats.TITLES)
"""What a data set can be: a folder (or archive) of image files, or an official archive."""

TEST_SHARE: Final = 0.2
"""Part of each class that becomes the test split where the data set names none."""

_CACHE_VERSION: Final = 2  # of the cache's layout and of the split's definition
_SPLITS: Final = {"train", "test"}
_SPLIT_SEED: Final = 0  # never the training seed: runs with different seeds must share their splits
_ABANDONED_SECONDS: Final = 86_400.0  # no build takes a day

Progress = Callable[[int, int], None]
"""Called with the number of images done and the total."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one size, and which of them serve for what."""

    name: str
    """Name of the folder or archive, without its endings."""
    labels: tuple[str, ...]
    """Class names; folders' in code-point order, an official archive's in its own."""
    images: NDArray[np.uint8]
    """(N, S, S, C), memory-mapped: reading a part of it touches no more than that part."""
    targets: NDArray[np.int64]
    """(N,), each image's class, an index into the labels."""
    names: tuple[str, ...]
    """(N,), each image's path inside the data set; `train/00017` in an official archive."""
    train: NDArray[np.int64]
    """Indices of the training images: the training split without the hold-out."""
    holdout: NDArray[np.int64]
    """Images that choices are made on: 2% of the training split, 10% below 10,000 images."""
    test: NDArray[np.int64]
    """Indices of the test split, for one score after all choices."""
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of each file that could not be decoded and was left out."""
    fingerprint: str
    """SHA-256 of labels, names, splits, targets and pixels, in hexadecimal."""
    kind: str = "folder"
    """What it is, one of `KINDS`."""
    duplicates: tuple[tuple[str, str], ...] = ()
    """(name, name) of each test image and a training image that has the very same pixels."""

    @property
    def official(self) -> str | None:
        """Which official data set it is; None for a folder of images."""
        return None if self.kind == "folder" else self.kind

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of the images of a split: test, holdout, train or all."""
        if split == "all":
            return np.arange(len(self.targets))
        indices: NDArray[np.int64] = getattr(self, split)
        return indices


@dataclass(frozen=True)
class _Member:
    """One image of the source: its path there, its split and its class."""

    name: str
    split: str
    label: str


def open_dataset(
    path: Path,
    *,
    size: int,
    channels: int = 3,
    kind: str | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set, decoding it if no valid cache of it exists.

    Args:
        path: a folder or an archive; or the name of an official one, of `formats.TITLES`, that
            was downloaded.
        size: side that images are resized to, in pixels.
        channels: 3 for RGB, 1 for luma.
        kind: what it has to be, one of `KINDS`; found by looking, if None.
        cache: folder of the caches; `$XDG_CACHE_HOME/nin-edge`, or `~/.cache/nin-edge`, if None.
        workers: processes that decode; the CPUs this process may use, if None.
        progress: told how decoding goes; not called when the cache serves.

    Raises:
        DatasetError: nothing there, an unsafe or broken archive, not of `kind`, fewer than two
            classes, a class without images.
    """
    if kind is not None and kind not in KINDS:
        raise DatasetError(f"no kind of data set: {kind!r}, expected one of {', '.join(KINDS)}")
    cache = cache or default_cache()
    kind = _named_kind(path, kind)
    place = _locate(path, kind, cache)
    source = open_source(place)
    key = _key(source, size, channels, f"{kind} {formats.says_fashion(place)}")
    folder = cache / f"{dataset_name(path)}-{key}"
    cached = _load_cache(folder)
    if cached is None:
        plan = _plan(place, source, kind)
        _build_cache(folder, place, plan, size, channels, workers or usable_threads(), progress)
        cached = _load_cache(folder)
        if cached is None:
            raise DatasetError(
                f"{folder}: the cache cannot be read back right after it was written"
            )
    images, index, fingerprint = cached
    labels = tuple(index["labels"])
    targets = np.array(index["targets"], dtype=np.int64)
    fit, holdout, test = _splits_of(index)
    return Dataset(
        name=dataset_name(path),
        labels=labels,
        images=images,
        targets=targets,
        names=tuple(index["names"]),
        train=fit,
        holdout=holdout,
        test=test,
        unreadable=tuple((name, reason) for name, reason in index["unreadable"]),
        fingerprint=fingerprint,
        kind=index["kind"],
        duplicates=tuple((name, twin) for name, twin in index["duplicates"]),
    )


def check_labels(dataset: Dataset, labels: Sequence[str]) -> None:
    """Make sure that a data set has a model's classes, in the order of the model's outputs.

    Raises:
        DatasetError: it has not; the message names those that are missing and those besides.
    """
    if dataset.labels == tuple(labels):
        return
    missing, extra = (
        list_some(sorted(set(one) - set(other)))
        for one, other in ((labels, dataset.labels), (dataset.labels, labels))
    )
    raise DatasetError(
        f"{dataset.name}: its labels are not the model's: "
        + (
            f"without {missing or 'none'}, with {extra or 'none'} besides"
            if missing or extra
            else f"the same ones in another order, the model's is {list_some(labels)}"
        )
    )


def list_some(names: Sequence[str], limit: int = 10) -> str:
    """Names with commas between them, the rest of a long list as a number."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# --- what is in it --------------------------------------------------------------------------------


def is_name(path: Path) -> bool:
    """Whether it is the name of an official archive: nothing lies there that it could mean."""
    return str(path) in formats.TITLES and not path.exists()


def downloads(kind: str, cache: Path | None = None) -> Path:
    """Folder in which the official archive lies that is opened by its name."""
    return (cache or default_cache()) / "downloads" / kind


def holds(folder: Path, kind: str) -> bool:
    """Whether a folder has an official archive in it, whole or unpacked."""
    if not folder.is_dir():
        return False
    if any(formats.ARCHIVES.get(entry.name) == kind for entry in folder.iterdir()):
        return True
    try:
        return formats.find(folder, open_source(folder).names(), kind) is not None
    except DatasetError:
        return False  # some of its files, or none


def fetch(
    path: Path,
    kind: str | None = None,
    *,
    cache: Path | None = None,
    progress: download.Progress | None = None,
) -> None:
    """Download an official archive to where `open_dataset` looks for it, if it is not there.

    Args:
        path: its name; or the folder that it is to lie in, which need not exist.
        kind: what it is, of `formats.TITLES`; needed where `path` is a folder.
        cache: see `open_dataset`; a name's archive goes there.
        progress: told how it goes.

    Raises:
        DownloadError: it could not be fetched, or a file there is not the published one.
        DatasetError: neither a name nor a folder with a `kind`.
    """
    kind = _named_kind(path, kind)
    if kind not in formats.TITLES:
        raise DatasetError(
            f"{path}: what to download is not said, expected one of {', '.join(formats.TITLES)} "
            "as the data's name or its kind (--dataset)"
        )
    if path.is_file():
        return  # an archive that is here already
    folder = downloads(kind, cache) if is_name(path) else path
    files = download.CATALOGUE[kind]
    published = any((folder / remote.name).exists() for remote in files)
    if published or not holds(folder, kind):  # in another form it will do
        download.download(files, folder, progress=progress)


def own_shape(
    path: Path, kind: str | None = None, *, cache: Path | None = None
) -> tuple[int, int] | None:
    """Side and channels of an official archive's images, found without unpacking anything.

    Args:
        path: see `open_dataset`.
        kind: what it has to be, or None.
        cache: see `open_dataset`.

    Returns:
        None for anything else, and where neither its name nor those of its files tell.
    """
    kind = _named_kind(path, kind)
    try:
        place = path if kind else _locate(path, None, cache or default_cache())
        if kind is None and place.is_dir():
            found = _find_official(place, open_source(place).names(), None)
            kind = found.kind if found else None
    except DatasetError:
        return None  # `open_dataset` will say what is wrong
    return formats.SHAPES.get(kind or formats.ARCHIVES.get(place.name, ""))


def _named_kind(path: Path, kind: str | None) -> str | None:
    """The kind that is asked for, by the path where that is a name."""
    if not is_name(path):
        return kind
    if kind not in (None, str(path)):
        raise DatasetError(f"{path}: the name of {formats.TITLES[str(path)]}, not of {kind}")
    return str(path)


def _locate(path: Path, kind: str | None, cache: Path) -> Path:
    """Where the files lie: the folder of a name, an official archive inside a folder."""
    if is_name(path):
        name, path = str(path), downloads(str(path), cache)
        if not holds(path, name):
            raise DatasetError(
                f"{name}: no such file or folder, and {formats.TITLES[name]} is not in {path}; "
                "nin-edge train or eval with --download fetches it"
            )
    if path.is_file() and formats.is_part(path.name):
        raise DatasetError(f"{path}: one file of a data set, expected the folder that it lies in")
    if path.is_dir() and kind != "folder":
        held = {
            formats.ARCHIVES[name]: path / name
            for name in reversed(formats.ARCHIVES)
            if (path / name).is_file() and kind in (None, formats.ARCHIVES[name])
        }
        if len(held) > 1:
            names = " and ".join(formats.TITLES[one] for one in held)
            raise DatasetError(f"{path}: holds {names}; say which by --dataset, or name one file")
        for archive in held.values():
            return archive
    return path


@dataclass(frozen=True)
class _Plan:
    """What is to be decoded."""

    kind: str
    """One of `KINDS`."""
    members: list[_Member]
    """The images that have a class."""
    labels: list[str]
    """The classes in their order, empty ones too."""
    loose: list[str]
    """Image files outside the folders of the classes."""
    pictures: Callable[[], Iterator[tuple[str, Picture]]]
    """Gives the members' names with what is to be decoded, in any order."""


def _plan(path: Path, source: Source, kind: str | None) -> _Plan:
    """Look into the source: an official archive, or files in folders."""
    names = source.names()
    if kind != "folder" and (found := _find_official(path, names, kind)):
        return _official_plan(found.kind, formats.read(path, source, found))
    layout = _layout(path, names)
    wanted = {member.name for member in layout.members}
    return _Plan(
        "folder", layout.members, sorted(layout.labels), layout.loose, lambda: source.read(wanted)
    )


def _find_official(path: Path, names: Sequence[str], kind: str | None) -> formats.Found | None:
    """Look for an official archive's files, beside which there may be image files."""
    shown = any(
        name.lower().endswith(tuple(IMAGE_SUFFIXES)) and not _is_hidden(name) for name in names
    )
    return formats.find(path, names, kind, pictures=shown)


def _official_plan(kind: str, official: formats.Official) -> _Plan:
    members: list[_Member] = []
    pixels: list[NDArray[np.uint8]] = []
    counts = {"train": 0, "test": 0}
    for part in official.parts:
        for image, target in zip(part.pixels, part.targets, strict=True):
            # Numbered by split, not by file: the same in every form of the archive.
            name = f"{part.split}/{counts[part.split]:05}"
            counts[part.split] += 1
            members.append(_Member(name, part.split, official.labels[target]))
            pixels.append(image)
    names = [member.name for member in members]
    return _Plan(kind, members, list(official.labels), [], lambda: zip(names, pixels, strict=True))


@dataclass(frozen=True)
class _Layout:
    """What the folders of a source say."""

    members: list[_Member]
    """The image files that have a class."""
    labels: set[str]
    """The classes, empty ones too."""
    loose: list[str]
    """Image files outside the folders of the classes."""


def _layout(path: Path, names: Sequence[str]) -> _Layout:
    """Which of the names are images, and the split and class that their folders give them."""
    entries = [(name, PurePosixPath(name).parts) for name in names if not _is_hidden(name)]
    folders = [parts for name, parts in entries if name.endswith("/") and parts]
    files = [
        (name, parts)
        for name, parts in entries
        if not name.endswith("/") and parts[-1].lower().endswith(tuple(IMAGE_SUFFIXES))
    ]
    if not files:
        raise DatasetError(
            f"{path}: no image files in it, expected <class>/*.jpg or train/<class>/*.jpg, "
            "or the files of CIFAR-10, CIFAR-100, MNIST or Fashion-MNIST"
        )
    # Archives usually hold one folder that holds the rest.
    while len({parts[0] for _, parts in files}) == 1 and all(len(parts) > 2 for _, parts in files):
        if {parts[0].lower() for parts in folders} >= _SPLITS:
            break  # train, beside an empty test
        top = files[0][1][0]
        files = [(name, parts[1:]) for name, parts in files]
        folders = [parts[1:] for parts in folders if parts[0] == top and len(parts) > 1]
    tops = {parts[0] for _, parts in files if len(parts) > 1} | {parts[0] for parts in folders}
    splits = {top: top.lower() for top in tops if top.lower() in _SPLITS}
    if set(splits.values()) == _SPLITS and len(splits) == len(_SPLITS):
        if extra := sorted(tops - set(splits)):
            raise DatasetError(
                f"{path}: found {', '.join(extra)} beside train and test, expected these alone"
            )
        depth = 2  # <split>/<class>
    elif {top.lower() for top in tops} & {"train", "training"} and {top.lower() for top in tops} & {
        "val",
        "valid",
        "validation",
        "dev",
        "testing",
    }:
        raise DatasetError(
            f"{path}: found {', '.join(sorted(tops))}, expected train and test "
            "(a hold-out is taken from train)"
        )
    else:
        depth = 1  # <class>
    members, loose = [], []
    for name, parts in files:
        if len(parts) <= depth:
            loose.append(name)
        else:
            split = splits[parts[0]] if depth == 2 else ""
            members.append(_Member(name, split, parts[depth - 1]))
    labels = {member.label for member in members}
    labels |= {parts[depth - 1] for parts in folders if len(parts) == depth}
    for label in labels:
        if not _is_text(label):
            raise DatasetError(f"{path}: the folder name {label!r} is not UTF-8, expected a label")
    return _Layout(members, labels, loose)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _is_text(name: str) -> bool:
    """Whether a name can be written down: the file system also knows bytes that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- the cache ------------------------------------------------------------------------------------


def default_cache() -> Path:
    """Folder of the caches and the downloads."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nin-edge"


def dataset_name(path: Path) -> str:
    """Name of a folder or archive, the latter without its endings."""
    name = path.resolve().name
    return name if path.is_dir() else re.sub(r"(\.tar)?\.(tar|tgz|gz|bz2|xz|zip)$", "", name)


def _key(source: Source, size: int, channels: int, reading: str) -> str:
    """Changes whenever a file's name, size or time does, or anything that decides what is read."""
    settings = f"{_CACHE_VERSION} {size} {channels} {PIL.__version__} {reading}\n"
    return hashlib.sha256(
        (settings + source.stamp()).encode("utf-8", "surrogateescape")
    ).hexdigest()[:20]


def _load_cache(folder: Path) -> tuple[NDArray[np.uint8], dict[str, Any], str] | None:
    """Images, index and fingerprint, or None where the cache is missing, torn or altered."""
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        shape = tuple(index["shape"])
        if (folder / "images.u8").stat().st_size != int(np.prod(shape)):
            return None
        images = np.memmap(folder / "images.u8", dtype=np.uint8, mode="r", shape=shape)
        fingerprint = _fingerprint(folder / "images.u8", index)
        whole = fingerprint == index["fingerprint"] and _checksum(index) == index["checksum"]
        return (images, index, fingerprint) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(pixels: Path, index: dict[str, Any]) -> str:
    digest = hashlib.sha256(
        json.dumps([index[key] for key in ("labels", "names", "splits", "targets")]).encode()
    )
    with pixels.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _checksum(index: dict[str, Any]) -> str:
    """SHA-256 of everything else that the index holds."""
    rest = {key: value for key, value in index.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _build_cache(
    folder: Path,
    path: Path,
    plan: _Plan,
    size: int,
    channels: int,
    workers: int,
    progress: Progress | None,
) -> None:
    """Decode everything into a temporary folder, then put that in place in one step."""
    members = sorted(plan.members, key=lambda member: (member.split, member.label, member.name))
    places = {member.name: place for place, member in enumerate(members)}
    failures: dict[int, str] = {}
    _prepare_cache(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
        part = Path(temporary)
        row = size * size * channels
        with (part / "images.u8").open("wb+") as file:
            done = 0
            for names, decoded in decode(
                plan.pictures(),
                size=size,
                channels=channels,
                workers=workers,
                total=len(members),
            ):
                for name, pixels in zip(names, decoded, strict=True):
                    if isinstance(pixels, str):
                        failures[places[name]] = pixels
                    else:
                        file.seek(places[name] * row)
                        file.write(pixels)
                        failures.pop(places[name], None)  # a later copy in a tar counts
                done += len(names)
                if progress:
                    progress(done, len(members))
            file.truncate(len(members) * row)
            kept = [place for place in range(len(members)) if place not in failures]
            _close_gaps(file, kept, row)
            file.flush()
            os.fsync(file.fileno())
        index = _index(path, plan, members, kept, failures, (len(kept), size, size, channels))
        index["duplicates"] = _duplicates(part / "images.u8", index)
        index["fingerprint"] = _fingerprint(part / "images.u8", index)
        index["checksum"] = _checksum(index)
        (part / "index.json").write_text(json.dumps(index), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # stale or torn: never trusted
        try:
            part.rename(folder)
        except OSError:
            if _load_cache(folder) is None:  # another process was first only if its cache is sound
                raise
        part.mkdir(exist_ok=True)  # for TemporaryDirectory to remove


def _prepare_cache(folder: Path) -> None:
    """Make the folder of the caches, and sweep what a killed process left unfinished there."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(".building-*"):
        if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(part, ignore_errors=True)


def _close_gaps(file: Any, kept: Sequence[int], row: int) -> None:
    """Move the decoded rows together, over those of unreadable images."""
    for new, old in enumerate(kept):
        if new != old:
            file.seek(old * row)
            pixels = file.read(row)
            file.seek(new * row)
            file.write(pixels)
    file.truncate(len(kept) * row)


def _index(
    path: Path,
    plan: _Plan,
    members: Sequence[_Member],
    kept: Sequence[int],
    failures: dict[int, str],
    shape: tuple[int, ...],
) -> dict[str, Any]:
    """What the cache says of its images; raises where they make no data set."""
    labels = plan.labels
    if len(labels) < 2:
        raise DatasetError(
            f"{path}: {len(labels)} class{'' if len(labels) == 1 else 'es'}"
            f"{f' ({labels[0]})' if labels else ''}, expected a folder for each of at least two"
        )
    splits = {members[place].split for place in kept}
    if "train" in splits and "test" not in splits:
        raise DatasetError(f"{path}: no readable image in a class of its test folder")
    # Every class needs images to learn from; with no split of its own, any image of it will do.
    filled = {members[place].label for place in kept if members[place].split != "test"}
    if empty := [label for label in labels if label not in filled]:
        reasons = [
            f"; {members[place].name}: {reason}"
            for place, reason in failures.items()
            if members[place].label in empty
        ]
        raise DatasetError(
            f"{path}: no readable training image of class {', '.join(empty)}{''.join(reasons[:1])}"
        )
    number = {label: target for target, label in enumerate(labels)}
    return {
        "labels": labels,
        "names": [members[place].name for place in kept],
        "splits": [members[place].split for place in kept],
        "targets": [number[members[place].label] for place in kept],
        "unreadable": [
            *((members[place].name, reason) for place, reason in sorted(failures.items())),
            *((name, "outside the folders of the classes") for name in plan.loose),
        ],
        "shape": shape,
        "kind": plan.kind,
    }


def _duplicates(pixels: Path, index: dict[str, Any]) -> list[tuple[str, str]]:
    """Names of each test image and of a training image with the very same pixels."""
    images = np.memmap(pixels, dtype=np.uint8, mode="r", shape=tuple(index["shape"]))
    digests = np.array(
        [
            int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "big")
            for image in images
        ],
        dtype=np.uint64,
    )
    fit, holdout, test = _splits_of(index)
    train = np.concatenate([fit, holdout])
    train = train[np.argsort(digests[train], kind="stable")]
    first = np.minimum(np.searchsorted(digests[train], digests[test]), len(train) - 1)
    names = index["names"]
    return [
        (names[one], names[other])
        for one, other in zip(test, train[first], strict=True)
        if digests[one] == digests[other] and np.array_equal(images[one], images[other])
    ]


# --- the splits -----------------------------------------------------------------------------------


def _splits_of(
    index: dict[str, Any],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Indices for fitting, hold-out and test, of what a cache holds."""
    is_test = np.array([split == "test" for split in index["splits"]], dtype=bool)
    return _split(np.array(index["targets"], dtype=np.int64), is_test)


def _split(
    targets: NDArray[np.int64], is_test: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Indices for fitting, hold-out and test; each class is divided alike and keeps one to fit."""
    rng = np.random.default_rng(_SPLIT_SEED)
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    if not len(test):
        train, test = _take(train, targets, TEST_SHARE, rng)
    fit, holdout = _take(train, targets, 0.02 if len(train) >= 10_000 else 0.1, rng)
    return fit, holdout, test


def _take(
    indices: NDArray[np.int64], targets: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide indices into the rest and a stratified share, one at least of a class that has two."""
    taken = []
    for target in np.unique(targets[indices]):
        members = indices[targets[indices] == target]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken.append(rng.permutation(members)[:count])
    share_indices = np.sort(np.concatenate(taken))
    return np.setdiff1d(indices, share_indices), share_indices

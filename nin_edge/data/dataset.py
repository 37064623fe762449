"""A data set of labelled images, decoded to one size and opened from its cache.

Images go through the runtime's own decoding, so a network is trained on the very pixels that a
device will give it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from nin_edge.data.cache import (
    Cached,
    Index,
    Progress,
    build_cache,
    cache_key,
    load_cache,
)
from nin_edge.data.cache_folder import cache_errors, default_cache, locked
from nin_edge.data.decode import Decoder
from nin_edge.data.errors import DatasetError
from nin_edge.data.folders import SPLIT_NAMES
from nin_edge.data.layout import Contents, folder_contents, official_contents, table_contents
from nin_edge.data.location import Location, locate
from nin_edge.data.sources import Source, open_source
from nin_edge.data.split import split_images
from nin_edge.text import list_some
from nin_edge_runtime.threads import usable_threads

_NAME_LENGTH: Final = 50  # characters of a data set's name in its cache's; a file system's limit

SPLITS: Final = ("test", "validation", "holdout", "train", "all")
"""Names of the parts of a data set; `train` is without the hold-out."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled images of one size, and which of them are for training and for testing."""

    name: str
    """Name of the folder or archive, without its endings."""
    labels: tuple[str, ...]
    """Class names: a model's, or folders' in code-point order, or an official data set's."""
    images: NDArray[np.uint8]
    """(N, S, S, C), memory-mapped: reading a part of it touches no more than that part."""
    targets: NDArray[np.int64]
    """(N,), class of each image, an index into the labels."""
    names: tuple[str, ...]
    """(N,), path of each image in the data set; `train/00017` in an official one."""
    train: NDArray[np.int64]
    """Indices of the training images: the training split without the hold-out."""
    holdout: NDArray[np.int64]
    """Indices of the hold-out, for all choices: the validation split if the data name one, else 2%
    of the training split, or 10% below 10,000 images."""
    test: NDArray[np.int64]
    """Indices of the test split, which is scored once, after all choices; may be empty."""
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of each file that could not be decoded and was left out."""
    fingerprint: str
    """SHA-256 of labels, names, splits, targets and pixels, in hexadecimal."""
    official: str | None = None
    """Which official data set it is, a key of `OFFICIAL`; None for a folder of images."""
    duplicates: tuple[tuple[str, str], ...] = ()
    """(path, path) of each test image and a training image that has the same pixels."""
    contradictions: tuple[tuple[str, str], ...] = ()
    """(path, path) of images with the same pixels in different classes."""
    larger: NDArray[np.uint8] | None = None
    """(N, L, L, C), the same images at a teacher's larger size; None if no teacher needs them."""
    enlarged: int = 0
    """How many images had fewer than S pixels on a side."""
    splits: tuple[str, ...] = ()
    """The splits that the data name: some of `train`, `validation`, `test`, or none."""
    passed_over: str = ""
    """What else lies in the folder or archive, and why it is not read, in words."""

    @property
    def scored_split(self) -> str:
        """Name of the split that export scores: `test`, else `validation`, else `holdout`."""
        if len(self.test) or not self.splits:
            return "test"
        return "validation" if "validation" in self.splits else "holdout"

    @property
    def scored(self) -> NDArray[np.int64]:
        """Indices of the images of `scored_split`."""
        return self.indices(self.scored_split)

    @property
    def default_split(self) -> str:
        """Name of the split that `evaluate` scores.

        Data without splits that lack a class are no training data, so `all` of them are scored.
        """
        return "all" if self.missing and not self.splits else self.scored_split

    @property
    def missing(self) -> tuple[str, ...]:
        """The labels that no image has."""
        present = set(np.unique(self.targets).tolist())
        return tuple(label for place, label in enumerate(self.labels) if place not in present)

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of the images of a split, one of `SPLITS`.

        Raises:
            ValueError: there is no such split.
            DatasetError: the data name no validation split.
        """
        if split not in SPLITS:
            raise ValueError(f"no such split: {split!r}, expected one of {', '.join(SPLITS)}")
        if split == "all":
            return np.arange(len(self.targets))
        if split == "validation":
            if split not in self.splits:
                raise DatasetError(
                    f"{self.name}: no validation split; the split 'holdout' has what training sets "
                    "aside"
                )
            return self.holdout
        indices: NDArray[np.int64] = getattr(self, split)
        return indices


def open_dataset(
    data: Location | str | os.PathLike[str],
    *,
    size: int,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    skip_unreadable: bool = True,
) -> Dataset:
    """Open a data set, decoding it if no valid cache of it exists.

    Args:
        data: where it is, from `locate`; or what `locate` takes.
        size: side S that images are resized to, in pixels.
        channels: C, 3 for RGB, 1 for luma.
        classes: labels of a model to score; the data may have images of some of them alone. None:
            the data's own labels, with training images of each.
        cache: folder of the caches; `$XDG_CACHE_HOME/nin-edge`, or `~/.cache/nin-edge`, if None.
        workers: processes that decode; one for each CPU that this process may use, if None.
        progress: called with how decoding goes; not called where the cache serves.
        skip_unreadable: leave out, and list in `unreadable`, files and folders that the system does
            not let us read; False to raise an error. Damaged images are always left out.

    Raises:
        DatasetError: nothing there, an unsafe or broken archive, other data than `locate` was told
            to expect, other labels than `classes`; without these, fewer than two classes, or a
            class without training images.
    """
    cache = cache or default_cache()
    location = data if isinstance(data, Location) else locate(data, cache=cache)
    source = open_source(location.path, location.zip_encoding)
    listing = source.listing
    if listing.unreadable and not skip_unreadable:
        parts = list_some([f"{name} ({reason})" for name, reason in listing.unreadable], 3)
        raise DatasetError(
            f"{location.path}: cannot read {parts}; make them readable, or leave them out by "
            "--set skip_unreadable=true"
        )
    decoder = Decoder(size, channels, workers or usable_threads())
    cached = _cached(location, source, cache, decoder, progress)
    index = cached.index
    targets = np.array(index.targets, dtype=np.int64)
    split = split_images(targets, index.splits)
    if classes is None:
        _check_classes(location.path, index)
    else:
        # A folder that has nothing in it is no label to score.
        filled, targets = np.unique(targets, return_inverse=True)
        targets = _places(location.name, [index.labels[place] for place in filled], classes)[
            targets
        ]
    return Dataset(
        name=location.name,
        labels=index.labels if classes is None else tuple(classes),
        images=cached.images,
        targets=targets,
        names=index.names,
        train=split.train,
        holdout=split.holdout,
        test=split.test,
        unreadable=(*listing.unreadable, *index.unreadable),
        fingerprint=index.fingerprint,
        official=location.official,
        duplicates=index.duplicates,
        contradictions=index.contradictions,
        enlarged=index.enlarged,
        splits=tuple(name for name in SPLIT_NAMES if name in index.splits),
        passed_over="" if location.official else listing.passed_over(),
    )


def check_labels(dataset: Dataset, labels: Sequence[str]) -> None:
    """Make sure that a data set has a model's classes, in the order of the model's outputs.

    Raises:
        DatasetError: it has not; the message names the missing and the extra ones.
    """
    if dataset.labels == tuple(labels):
        return
    missing = list_some(sorted(set(labels) - set(dataset.labels)))
    extra = list_some(sorted(set(dataset.labels) - set(labels)))
    raise DatasetError(
        f"{dataset.name}: its labels are not the model's: "
        + (
            f"missing {missing or 'none'}, extra {extra or 'none'}"
            if missing or extra
            else f"the same, but the model's order is {list_some(labels)}"
        )
    )


def _cached(
    location: Location,
    source: Source,
    cache: Path,
    decoder: Decoder,
    progress: Progress | None,
) -> Cached:
    """The decoded images of a data set."""
    key = cache_key(source, location.decided(), decoder.size, decoder.channels)
    folder = cache / f"{location.name[:_NAME_LENGTH]}-{key}"
    if cached := load_cache(folder):
        return cached
    with cache_errors(cache), locked(folder):
        if cached := load_cache(folder):  # another process was faster
            return cached
        contents = _contents(location, source)
        build_cache(
            folder,
            location.path,
            contents,
            decoder,
            test_share=location.test_split,
            progress=progress,
        )
        cached = load_cache(folder, built_here=True)
    if cached is None:
        raise DatasetError(f"{folder}: the cache cannot be read back right after it was written")
    return cached


def _contents(location: Location, source: Source) -> Contents:
    """The images of a data set, each with its split and class."""
    if location.official is not None:
        return official_contents(location.path, source, location.official)
    if location.labels is not None:
        contents = table_contents(location.path, source, location.labels)
    else:
        contents = folder_contents(location.path, source)
    if location.test_split and "test" in contents.splits:
        raise DatasetError(
            f"{location.path}: test_split is {location.test_split}, but the data have a test split"
        )
    return contents


def _check_classes(path: Path, index: Index) -> None:
    """Refuse what cannot be trained on."""
    labels = index.labels
    if len(labels) < 2:
        raise DatasetError(
            f"{path}: 1 class ({labels[0]}), expected a folder for each of at least two"
        )
    # Every class needs a training image; without named splits, any image of it can be one.
    filled = {
        target
        for target, split in zip(index.targets, index.splits, strict=True)
        if split in ("", "train")
    }
    if empty := [label for place, label in enumerate(labels) if place not in filled]:
        lacking = set(empty)
        hint = next(
            (
                f"; {name}: {reason}"
                for name, reason in index.unreadable
                if not lacking.isdisjoint(PurePosixPath(name).parts)
            ),
            "; fill its folder, or delete it",
        )
        raise DatasetError(f"{path}: no readable training image of class {list_some(empty)}{hint}")


def _places(name: str, labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Index of each label among a model's classes.

    Raises:
        DatasetError: the model does not have it.
    """
    # A Mac's folder names have accents as characters of their own.
    composed = {normalize("NFC", label): place for place, label in enumerate(classes)}
    places = composed | {label: place for place, label in enumerate(classes)}
    found = [places.get(label, places.get(normalize("NFC", label))) for label in labels]
    if None in found:
        unknown = [label for label, place in zip(labels, found, strict=True) if place is None]
        raise DatasetError(
            f"{name}: the model does not know the label{'s' * (len(unknown) > 1)} "
            f"{list_some(unknown)}, expected some of {list_some(classes)}"
        )
    return np.array(found, dtype=np.int64)

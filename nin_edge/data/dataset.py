"""A data set of labelled images, decoded to one size and opened from its cache.

Images go through the runtime's own decoding, so a network is trained on the very pixels that a
device will give it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nin_edge.data.cache import Progress, build_cache, cache_key, default_cache, load_cache
from nin_edge.data.decode import Decoder
from nin_edge.data.errors import DatasetError
from nin_edge.data.layout import folder_contents, official_contents
from nin_edge.data.location import Location, locate
from nin_edge.data.sources import open_source
from nin_edge.data.split import split_images
from nin_edge.text import list_some
from nin_edge_runtime.threads import usable_threads

SPLITS: Final = ("test", "holdout", "train", "all")
"""Names of the parts of a data set; `train` is without the hold-out."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled images of one size, and which of them are for training and for testing."""

    name: str
    """Name of the folder or archive, without its endings."""
    labels: tuple[str, ...]
    """Class names; folders' in code-point order, an official data set's in its own."""
    images: NDArray[np.uint8]
    """(N, S, S, C), memory-mapped: reading a part of it touches no more than that part."""
    targets: NDArray[np.int64]
    """(N,), class of each image, an index into the labels."""
    names: tuple[str, ...]
    """(N,), path of each image in the data set; `train/00017` in an official one."""
    train: NDArray[np.int64]
    """Indices of the training images: the training split without the hold-out."""
    holdout: NDArray[np.int64]
    """Indices of the hold-out, for all choices: 2% of the training split, 10% below 10,000."""
    test: NDArray[np.int64]
    """Indices of the test split, which is scored once, after all choices."""
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of each file that could not be decoded and was left out."""
    fingerprint: str
    """SHA-256 of labels, names, splits, targets and pixels, in hexadecimal."""
    official: str | None = None
    """Which official data set it is, a key of `OFFICIAL`; None for a folder of images."""
    duplicates: tuple[tuple[str, str], ...] = ()
    """(path, path) of each test image and a training image that has the same pixels."""
    passed_over: str = ""
    """What else lies in the folder or archive, and why it is not read, in words."""

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of the images of a split, one of `SPLITS`.

        Raises:
            ValueError: there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"no such split: {split!r}, expected one of {', '.join(SPLITS)}")
        if split == "all":
            return np.arange(len(self.targets))
        indices: NDArray[np.int64] = getattr(self, split)
        return indices


def open_dataset(
    data: Location | str | os.PathLike[str],
    *,
    size: int,
    channels: int = 3,
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
        cache: folder of the caches; `$XDG_CACHE_HOME/nin-edge`, or `~/.cache/nin-edge`, if None.
        workers: processes that decode; one for each CPU that this process may use, if None.
        progress: told how decoding goes; not called where the cache serves.
        skip_unreadable: leave out, and list in `unreadable`, files and folders that the system does
            not let us read; False to raise an error. Damaged images are always left out.

    Raises:
        DatasetError: nothing there, an unsafe or broken archive, other data than `locate` was told
            to expect, fewer than two classes, a class without images.
    """
    cache = cache or default_cache()
    location = data if isinstance(data, Location) else locate(data, cache=cache)
    source = open_source(location.path)
    listing = source.listing
    if listing.unreadable and not skip_unreadable:
        parts = list_some([f"{name} ({reason})" for name, reason in listing.unreadable], 3)
        raise DatasetError(
            f"{location.path}: cannot read {parts}; make them readable, or leave them out by "
            "--set skip_unreadable=true"
        )
    key = cache_key(source, location.official, size, channels)
    folder = cache / f"{location.name}-{key}"
    cached = load_cache(folder)
    if cached is None:
        contents = (
            folder_contents(location.path, source)
            if location.official is None
            else official_contents(location.path, source, location.official)
        )
        decoder = Decoder(size, channels, workers or usable_threads())
        build_cache(folder, location.path, contents, decoder, progress)
        cached = load_cache(folder)
        if cached is None:
            raise DatasetError(
                f"{folder}: the cache cannot be read back right after it was written"
            )
    index = cached.index
    targets = np.array(index.targets, dtype=np.int64)
    split = split_images(targets, index.splits)
    return Dataset(
        name=location.name,
        labels=index.labels,
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

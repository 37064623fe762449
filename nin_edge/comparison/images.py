"""The images that two models are compared on: a labelled data set, or a folder of photos."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import numpy as np

from nin_edge.data import Dataset, DatasetError
from nin_edge_runtime.folders import list_folder, list_images
from nin_edge_runtime.image import ImageSource


@dataclass(frozen=True, eq=False)
class Images:
    """N images, for the old model and for the new one, whose inputs may differ in size."""

    data: str
    """Name of the data set or folder."""
    split: str | None
    """Which part of the data set; None for a folder of photos."""
    names: Sequence[str]
    """(N,), the name of each image."""
    classes: Sequence[str] | None
    """(N,), the class of each image; None without labels."""
    old: Sequence[ImageSource]
    """(N,), as the old model takes them."""
    new: Sequence[ImageSource]
    """(N,), as the new model takes them."""
    unreadable: tuple[tuple[str, str], ...]
    """(name, reason) of what was left out before."""


class _Rows(Sequence[ImageSource]):
    """Some images of a data set, which stay on the disk until they are asked for."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self._images, self._indices = dataset.images, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]  # slices are not used
        return np.asarray(self._images[self._indices[place]])


def has_labels(folder: Path, labels: Collection[str]) -> bool:
    """Whether a folder's images are sorted by class: one lies in a folder with a label as its name.

    Args:
        folder: the folder.
        labels: those of both models.

    Raises:
        OSError: the folder cannot be read.
    """
    known = {normalize("NFC", label) for label in labels}
    folders = {
        normalize("NFC", part)
        for name in list_folder(folder).images
        for part in PurePosixPath(name).parts[:-1]
    }
    return not known.isdisjoint(folders)


def labelled(old: Dataset, new: Dataset, split: str | None = None) -> Images:
    """A split of a data set, opened in the size of each model with the labels of both.

    Args:
        old: the images for the old model.
        new: the same images for the new one; the same data set if their sizes are equal.
        split: one of `nin_edge.data.SPLITS`; the data set's `default_split` if None.

    Raises:
        DatasetError: no images in the split, or the data set changed in between.
    """
    if old.names != new.names or not np.array_equal(old.targets, new.targets):
        raise DatasetError(f"{old.name}: changed while it was read, expected the same images twice")
    split = split or old.default_split
    indices = old.indices(split).tolist()
    if not indices:
        raise DatasetError(
            f"{old.name}: no images in the split {split!r}; "
            f"the split 'all' has {len(old.targets):,}"
        )
    return Images(
        data=old.name,
        split=split,
        names=[old.names[index] for index in indices],
        classes=[old.labels[old.targets[index]] for index in indices],
        old=_Rows(old, indices),
        new=_Rows(new, indices),
        unreadable=old.unreadable,
    )


def unlabelled(folder: str | os.PathLike[str]) -> Images:
    """The images of a folder and of those inside it, as `nin-edge run` finds them.

    Raises:
        ImageError: it has none, or cannot be read.
    """
    top = Path(folder)
    listing = list_images(top)
    names = listing.images_by_folder()
    paths = [top / name for name in names]
    return Images(top.resolve().name, None, names, None, paths, paths, listing.unreadable)

"""Which images train, which are held out, and which are the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

TEST_SHARE: Final = 0.2
"""Part of each class that becomes the test split where the data set names no split."""

_HOLDOUT_SHARE: Final = 0.1
_LARGE: Final = 10_000  # training images from which the smaller share is enough
_LARGE_HOLDOUT_SHARE: Final = 0.02
_SEED: Final = 0  # never the training seed: runs with different seeds must share their splits


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the images in each part of a data set; each (N,) and ascending."""

    train: NDArray[np.int64]
    """The training split without the hold-out."""
    holdout: NDArray[np.int64]
    """The validation split; without one, 2% of the training split, or 10% below 10,000 images."""
    test: NDArray[np.int64]
    """The test split; empty where the data set names others and no test split."""


def split_images(targets: NDArray[np.int64], splits: Sequence[str]) -> Split:
    """Divide a data set; always in the same way, and each class keeps a training image.

    Args:
        targets: (N,), class of each image.
        splits: (N,), split that the data set names for each image: `train`, `validation`, `test`,
            or an empty text where it names none.
    """
    rng = np.random.default_rng(_SEED)
    named = np.array(splits)
    holdout, test = np.flatnonzero(named == "validation"), np.flatnonzero(named == "test")
    train = np.setdiff1d(np.arange(len(named)), np.concatenate([holdout, test]))
    if not named.any():
        train, test = _set_aside(train, targets, TEST_SHARE, rng)
    if not len(holdout):
        share = _LARGE_HOLDOUT_SHARE if len(train) >= _LARGE else _HOLDOUT_SHARE
        train, holdout = _set_aside(train, targets, share, rng)
    return Split(train, holdout, test)


def take_test(targets: NDArray[np.int64], splits: Sequence[str], share: float) -> tuple[str, ...]:
    """Names of the splits with a test split taken from the training split.

    Args:
        targets: (N,), class of each image.
        splits: (N,), see `split_images`; without a test split.
        share: part of each class to take, above 0 and below 1.

    Returns:
        (N,), `train`, `validation` or `test`.
    """
    train = np.array([index for index, split in enumerate(splits) if split != "validation"], int)
    _, test = _set_aside(train, targets, share, np.random.default_rng(_SEED))
    taken = set(test.tolist())
    return tuple(
        "test" if index in taken else split or "train" for index, split in enumerate(splits)
    )


def _set_aside(
    indices: NDArray[np.int64], targets: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide indices into the rest and a stratified share: at least one of a class that has two."""
    taken = []
    for target in np.unique(targets[indices]):
        members = indices[targets[indices] == target]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken.append(rng.permutation(members)[:count])
    set_aside = np.sort(np.concatenate([indices[:0], *taken]))  # of no images, none
    return np.setdiff1d(indices, set_aside), set_aside

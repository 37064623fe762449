"""Which images train, which are held out, and which are the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

TEST_SHARE: Final = 0.2
"""Part of each class that becomes the test split where the data set names none."""

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
    """A stratified part of the training split: 2% of it, 10% below 10,000 images."""
    test: NDArray[np.int64]
    """The test split."""


def split_images(targets: NDArray[np.int64], splits: Sequence[str]) -> Split:
    """Divide a data set; always in the same way, and each class keeps a training image.

    Args:
        targets: (N,), class of each image.
        splits: (N,), split that the data set names for each image: `train`, `test`, or an empty
            text where it names none.
    """
    rng = np.random.default_rng(_SEED)
    is_test = np.array([split == "test" for split in splits], dtype=bool)
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    if not len(test):
        train, test = _set_aside(train, targets, TEST_SHARE, rng)
    share = _LARGE_HOLDOUT_SHARE if len(train) >= _LARGE else _HOLDOUT_SHARE
    train, holdout = _set_aside(train, targets, share, rng)
    return Split(train, holdout, test)


def _set_aside(
    indices: NDArray[np.int64], targets: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide indices into the rest and a stratified share: at least one of a class that has two."""
    taken = []
    for target in np.unique(targets[indices]):
        members = indices[targets[indices] == target]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken.append(rng.permutation(members)[:count])
    set_aside = np.sort(np.concatenate(taken))
    return np.setdiff1d(indices, set_aside), set_aside

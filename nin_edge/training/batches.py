"""Which images an epoch shows, and in which order."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

UNEQUAL: Final = 1.5
"""Images of the largest class over those of the smallest from which `train` balances by itself."""


def is_unequal(targets: NDArray[np.int64]) -> bool:
    """Whether the classes differ in size by so much that the small ones would be neglected.

    Args:
        targets: (N,), the images' classes.
    """
    counts = np.unique(targets, return_counts=True)[1]
    return bool(counts.max() >= UNEQUAL * counts.min())


def epoch_order(
    targets: NDArray[np.int64],
    fit: NDArray[np.int64],
    *,
    balanced: bool,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The images of one epoch in a random order, as many as there are to fit.

    Args:
        targets: (M,), the class of each image of the data set.
        fit: (N,), the images to fit.
        balanced: take equally many of each class, another part in every epoch where it has more,
            and all of them several times where it has fewer; else each image once.
        rng: of this epoch.

    Returns:
        (N,), some of `fit`.
    """
    if not balanced:
        return rng.permutation(fit)
    classes = [fit[targets[fit] == label] for label in np.unique(targets[fit])]
    # Those that get one more than the others, where N does not divide, change from epoch to epoch.
    shares = np.diff(np.linspace(0, len(fit), len(classes) + 1).astype(np.int64))
    chosen = []
    for members, share in zip(classes, rng.permutation(shares), strict=True):
        rounds = [rng.permutation(members) for _ in range(-(-share // len(members)))]
        chosen.append(np.concatenate(rounds)[:share])
    return rng.permutation(np.concatenate(chosen))

from __future__ import annotations

import numpy as np
import pytest

from nin_edge.training.batches import epoch_order, is_unequal

COUNTS = (100, 10, 37)
TARGETS = np.repeat(np.arange(3), COUNTS)
FIT = np.flatnonzero(np.arange(len(TARGETS)) % 7 != 0)  # the others are held out


def test_an_epoch_shows_each_image_once(rng: np.random.Generator) -> None:
    order = epoch_order(TARGETS, FIT, balanced=False, rng=rng)
    assert sorted(order) == list(FIT)
    assert list(order) != list(FIT)


def test_a_balanced_epoch_shows_each_class_equally_often(rng: np.random.Generator) -> None:
    order = epoch_order(TARGETS, FIT, balanced=True, rng=rng)
    assert len(order) == len(FIT)
    assert set(order) <= set(FIT)
    counts = np.bincount(TARGETS[order], minlength=3)
    assert counts.max() - counts.min() <= 1
    # Of a small class every image comes, as often as any other but for one time.
    small = np.flatnonzero(TARGETS == 1)
    times = np.bincount(order, minlength=len(TARGETS))[np.intersect1d(small, FIT)]
    assert times.min() >= 1
    assert times.max() - times.min() <= 1
    # Of a large one no image comes twice.
    large = np.flatnonzero(TARGETS == 0)
    assert np.bincount(order, minlength=len(TARGETS))[large].max() == 1


def test_balanced_epochs_show_other_images_of_a_large_class(rng: np.random.Generator) -> None:
    large = np.intersect1d(np.flatnonzero(TARGETS == 0), FIT)
    seen: set[int] = set()
    for _ in range(12):
        seen |= set(epoch_order(TARGETS, FIT, balanced=True, rng=rng))
    assert set(large) <= seen


def test_classes_are_mixed(rng: np.random.Generator) -> None:
    order = TARGETS[epoch_order(TARGETS, FIT, balanced=True, rng=rng)]
    assert (np.diff(order) != 0).mean() > 0.4  # two thirds are expected, in order about none


@pytest.mark.parametrize(
    ("counts", "unequal"), [((10, 10), False), ((10, 14), False), ((10, 15), True), ((1, 9), True)]
)
def test_classes_are_unequal_from_one_and_a_half(counts: tuple[int, int], unequal: bool) -> None:
    assert is_unequal(np.repeat(np.arange(2), counts)) is unequal

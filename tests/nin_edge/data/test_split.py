"""The hold-out and the test split: stratified, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from nin_edge.data.split import Split, split_images, take_test


def counts(targets: list[int], split: Split) -> list[list[int]]:
    """Images of each class to train, held out and to test."""
    classes = max(targets) + 1
    return [
        np.bincount(np.array(targets)[part], minlength=classes).tolist()
        for part in (split.train, split.holdout, split.test)
    ]


def test_named_splits_are_kept() -> None:
    targets, splits = [0, 1] * 11, ["train"] * 16 + ["test"] * 6
    split = split_images(np.array(targets), splits)
    assert counts(targets, split) == [[7, 7], [1, 1], [3, 3]]
    assert split.test.tolist() == list(range(16, 22))


def test_a_validation_split_is_the_holdout() -> None:
    targets = [0, 1] * 11
    split = split_images(np.array(targets), ["train"] * 12 + ["validation"] * 4 + ["test"] * 6)
    assert counts(targets, split) == [[6, 6], [2, 2], [3, 3]]
    split = split_images(np.array(targets), ["train"] * 18 + ["validation"] * 4)
    assert counts(targets, split) == [[9, 9], [2, 2], [0, 0]]
    split = split_images(np.array(targets), ["test"] * 22)
    assert counts(targets, split) == [[0, 0], [0, 0], [11, 11]]


@pytest.mark.parametrize("named", ["", "train"])
def test_a_test_split_is_taken_from_the_training_split(named: str) -> None:
    targets = [0] * 20 + [1] * 10 + [0, 1]
    splits = take_test(np.array(targets), [named] * 30 + ["validation"] * 2, 0.3)
    assert set(splits[:30]) == {"train", "test"}
    assert splits[30:] == ("validation",) * 2
    assert counts(targets, split_images(np.array(targets), splits)) == [[14, 7], [1, 1], [6, 3]]
    assert splits == take_test(np.array(targets), [named] * 30 + ["validation"] * 2, 0.3)


def test_without_a_split_a_fifth_of_each_class_is_the_test() -> None:
    targets = [0] * 50 + [1] * 10
    split = split_images(np.array(targets), [""] * 60)
    assert counts(targets, split) == [[36, 7], [4, 1], [10, 2]]
    together = np.concatenate([split.train, split.holdout, split.test])
    assert np.array_equal(np.sort(together), np.arange(60))


@pytest.mark.parametrize("splits", [[""] * 200, ["train"] * 160 + ["test"] * 40])
def test_the_split_is_the_same_every_time(splits: list[str]) -> None:
    targets = np.random.default_rng(0).integers(0, 5, 200)
    one, two = split_images(targets, splits), split_images(targets, splits)
    for part in ("train", "holdout", "test"):
        assert np.array_equal(getattr(one, part), getattr(two, part))
        assert np.all(np.diff(getattr(one, part)) > 0)


@pytest.mark.parametrize(("count", "share"), [(10_000, 0.02), (9_998, 0.1)])
def test_the_holdout_shrinks_to_two_percent_from_ten_thousand(count: int, share: float) -> None:
    targets = np.arange(count + 2) % 2
    split = split_images(targets, ["train"] * count + ["test"] * 2)
    assert len(split.holdout) == round(count * share / 2) * 2
    assert len(split.train) == count - len(split.holdout)


def test_a_class_keeps_a_training_image() -> None:
    targets = [0, 0, 0, 1]
    split = split_images(np.array(targets), [""] * 4)
    assert counts(targets, split) == [[1, 1], [1, 0], [1, 0]]

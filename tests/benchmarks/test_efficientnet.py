"""The linear layer on frozen features, without the network: its package is not installed here."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._efficientnet import Features, Frozen
from nin_edge.data import Dataset

FEATURES = 64  # fewer than the network has
LABELS = ("a", "b", "c")


@pytest.fixture
def dataset() -> Dataset:
    """Targets and splits of 300 images; their pixels are not looked at."""
    targets = np.arange(300, dtype=np.int64) % 3
    order = np.arange(300)
    return Dataset(
        name="made up",
        images=np.zeros((300, 1, 1, 3), np.uint8),
        targets=targets,
        labels=LABELS,
        train=order[:150],
        holdout=order[150:200],
        test=order[200:],
        unreadable=(),
        names=tuple(map(str, order)),
        fingerprint="",
    )


@pytest.mark.parametrize(("noise", "least"), [(0.1, 1.0), (3.0, 0.85)])
def test_the_layer_separates_classes_and_the_holdout_chooses_its_penalty(
    dataset: Dataset, rng: np.random.Generator, noise: float, least: float
) -> None:
    centres = rng.normal(size=(3, FEATURES)) / 4
    values = centres[dataset.targets] + noise / 4 * rng.normal(size=(300, FEATURES))
    fitted = Frozen.fit(dataset, Features(values.astype(np.float32), 0.0))
    assert fitted.test is not None
    assert fitted.test.count == 100
    assert fitted.test.top1 >= least
    assert fitted.holdout_top1 >= least
    # Without noise the least penalty fits best; with much noise it does not.
    assert (fitted.decay == 3e-5) == (noise == 0.1)

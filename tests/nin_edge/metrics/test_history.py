from __future__ import annotations

import pytest

from nin_edge.metrics import DECISIVE, Epoch, best_epoch


@pytest.mark.parametrize(
    ("losses", "accuracies", "best"),
    [
        ([3.0], [0.9], 0),
        ([3.0, 1.0, 2.0], [0.9, 0.5, 0.5], 1),
        ([2.0, 1.0, 1.0], [0.9, 0.5, 0.5], 1),  # of equal ones the first
        ([2.0, 1.0, 1.0], [0.9, 0.5, 0.6], 2),  # but the more accurate
    ],
)
def test_the_best_epoch_has_the_lowest_loss(
    losses: list[float], accuracies: list[float], best: int
) -> None:
    history = [
        Epoch(number, 0.1, top1, loss, 100.0, 1.0)
        for number, (loss, top1) in enumerate(zip(losses, accuracies, strict=True), start=1)
    ]
    assert best_epoch(history, DECISIVE) == best
    assert best_epoch(history, DECISIVE - 1) == len(history) - 1


def test_without_held_out_images_the_last_epoch_counts() -> None:
    history = [Epoch(number, 0.1, None, None, 100.0, 1.0) for number in (1, 2, 3)]
    for held_out in (0, DECISIVE):
        assert best_epoch(history, held_out) == 2

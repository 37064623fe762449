from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nin_edge.training.progress import Progress
from nin_edge.training.tensorboard import TensorBoard
from nin_edge_runtime import MissingDependencyError

SINGLE_PRECISION = 1e-6  # what its files keep


def progress(epoch: int, top1: float | None = None, loss: float | None = None) -> Progress:
    ended = top1 is not None
    return Progress(epoch, 3, epoch / 3, 1 / epoch, 100.0, 1.0, top1, loss, epoch_ended=ended)


def test_each_epoch_is_a_point_that_tensorboard_reads(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = TensorBoard(tmp_path / "logs")
    assert not (tmp_path / "logs").exists()  # a run that fails early leaves nothing behind
    for epoch in (1, 2, 3):
        report(progress(epoch))
        report(progress(epoch, epoch / 4, 4 - epoch))
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert events.Tags()["scalars"] == [
        *("loss/train", "loss/holdout", "top1/holdout", "images_per_second")
    ]
    points = [(event.step, event.value) for event in events.Scalars("loss/train")]
    assert points == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3, abs=SINGLE_PRECISION))]
    assert [event.value for event in events.Scalars("top1/holdout")] == [0.25, 0.5, 0.75]
    assert [event.value for event in events.Scalars("loss/holdout")] == [3, 2, 1]


def test_without_tensorboard_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        TensorBoard(tmp_path)

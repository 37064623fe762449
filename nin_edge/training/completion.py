"""What a run measures once, after its last step: temperature, ranges, test score; its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nin_edge import metrics, plots
from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.files import write_atomically
from nin_edge.quantised_points import activation_ranges
from nin_edge.text import printable
from nin_edge_runtime import NinEdgeError

CALIBRATION_IMAGES: Final = 512
"""Training images, unaugmented, that the activation ranges for int8 are recorded on."""

_UNINTERRUPTED: Final = 1000  # images, between two looks at whether to stop


class TrainingStoppedError(NinEdgeError):
    """Training was asked to stop and saved its state; `--resume` continues it."""


def complete(
    best: Checkpoint,
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Checkpoint, dict[str, metrics.Scores]]:
    """Measure what a checkpoint tells of itself.

    The temperature, and what a `min_score` gives, come from the hold-out alone: they are choices.

    Args:
        best: trained weights.
        dataset: what they were trained on.
        device: where to compute the scores.
        should_stop: asked every thousand images.

    Returns:
        The checkpoint with its temperature, activation ranges and scores, and the latter whole, of
        `holdout` and, where there are test images, `test`.

    Raises:
        TrainingStoppedError: `should_stop` said so.
    """
    network = best.network()
    drawn = np.random.default_rng(0).permutation(dataset.train)[:CALIBRATION_IMAGES]
    ranges = activation_ranges(
        network, evaluate.inputs(best.preprocessing, dataset.images, np.sort(drawn)), len(drawn)
    )
    network.to(device)

    def answer(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        parts = []
        for part in np.array_split(indices, math.ceil(len(indices) / _UNINTERRUPTED)):
            if should_stop():
                raise TrainingStoppedError("stopped after the last step, before it was scored")
            parts.append(evaluate.logits(network, best.preprocessing, dataset.images, part, device))
        return np.concatenate(parts)

    logits = {"holdout": answer(dataset.holdout)}
    if len(dataset.test):
        logits["test"] = answer(dataset.test)
    targets = {split: dataset.targets[getattr(dataset, split)] for split in logits}
    temperature = metrics.fit_temperature(logits["holdout"], targets["holdout"])
    figures, scores = dict(best.metrics), {}
    for split in logits:
        tally = metrics.Tally(dataset.labels)
        tally.add(metrics.softmax(logits[split], temperature), targets[split])
        scores[split] = tally.scores()
        figures[f"{split}_images"] = scores[split].count
        figures[f"{split}_top1"] = scores[split].top1
        figures[f"{split}_ece"] = scores[split].ece
        figures[f"{split}_ece_uncalibrated"] = metrics.expected_calibration_error(
            metrics.softmax(logits[split], 1.0), targets[split]
        )
    for found in scores["holdout"].thresholds:
        figures[f"holdout_coverage_at_{found.min_score:g}"] = found.coverage
        if found.top1 is not None:
            figures[f"holdout_top1_at_{found.min_score:g}"] = found.top1
    return replace(best, temperature=temperature, ranges=ranges, metrics=figures), scores


def draw(
    run: Path,
    name: str,
    history: Sequence[metrics.Epoch],
    scores: Mapping[str, metrics.Scores],
) -> None:
    """Write curves.png, and confusion.png of the test images, of the hold-out without any.

    Args:
        run: folder to write to.
        name: of the data.
        history: losses and hold-out accuracy of each epoch, as in metrics.csv.
        scores: as `complete` gives them.
    """
    split, shown = ("test", scores["test"]) if "test" in scores else ("hold-out", scores["holdout"])
    title = printable(f"{name} ({split}): top-1 {shown.top1:.2%}")
    labels = [printable(label) for label in shown.labels]
    for file, figure in (
        ("curves.png", plots.curves_figure(history, printable(name))),
        ("confusion.png", plots.confusion_figure(labels, shown.confusion, title)),
    ):
        write_atomically(run / file, plots.to_png(figure))

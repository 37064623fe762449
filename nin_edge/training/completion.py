"""Final measurements of a run: temperature, activation ranges, scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nin_edge import metrics, predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.network import NetworkConfig, NiN
from nin_edge.quantised_points import activation_ranges
from nin_edge.trained_scores import SplitScores
from nin_edge.training.errors import TrainingStoppedError
from nin_edge.training.memory import give_back_memory
from nin_edge.training.recipe import Recipe
from nin_edge.training.rounding import round_checkpoint
from nin_edge_runtime.preprocessing import Preprocessing

CALIBRATION_IMAGES: Final = 512
"""Training images, without augmentation, on which int8's activation ranges are recorded."""

_MAP_VALUES: Final = 50_000_000  # of a layer for all images of rounding; several are in memory
_UNINTERRUPTED: Final = 1000  # images between two checks whether to stop


@dataclass(frozen=True, eq=False)
class Completed:
    """A finished training."""

    checkpoint: Checkpoint
    """The weights with temperature, activation ranges and scores."""
    scores: Mapping[str, metrics.Scores]
    """All scores on `holdout` and `test`, where they have images."""


def complete(
    best: Checkpoint,
    dataset: Dataset,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] = lambda: False,
) -> Completed:
    """Round the weights, and measure everything that a checkpoint records besides them.

    The temperature is a choice, so it is fitted on the hold-out; without any, there is none. The
    test split is scored once.

    Args:
        best: trained weights.
        dataset: the data they were trained on.
        recipe: whether to round the weights.
        device: device to compute the scores on.
        should_stop: called every thousand images.

    Raises:
        TrainingStoppedError: `should_stop` returned True.
    """
    if recipe.round_weights:
        best = round_checkpoint(best, _images(best, dataset, _rounding_images(best.config)))
    network = best.network()
    images = _images(best, dataset, CALIBRATION_IMAGES)
    ranges = activation_ranges(network, images, sum(map(len, images)))
    network.to(device)
    splits = [split for split in ("holdout", "test") if len(dataset.indices(split))]
    logits = {
        split: _logits(best, network, dataset, dataset.indices(split), device, should_stop)
        for split in splits
    }
    targets = {split: dataset.targets[dataset.indices(split)] for split in splits}
    temperature = None
    if "holdout" in splits:
        temperature = metrics.fit_temperature(logits["holdout"], targets["holdout"])
    scores, trained = {}, dict[str, SplitScores]()
    for split in splits:
        tally = metrics.Tally(dataset.labels)
        tally.add(metrics.softmax(logits[split], temperature or 1.0), targets[split])
        scores[split] = tally.scores()
        trained[split] = SplitScores(
            top1=scores[split].top1,
            images=scores[split].count,
            ece=scores[split].ece,
            ece_uncalibrated=metrics.expected_calibration_error(
                metrics.softmax(logits[split], 1.0), targets[split]
            ),
        )
    checkpoint = replace(
        best,
        temperature=temperature,
        ranges=ranges,
        trained_scores=replace(
            best.trained_scores,
            holdout=trained.get("holdout"),
            test=trained.get("test"),
            thresholds=scores["holdout"].thresholds if "holdout" in scores else (),
        ),
    )
    return Completed(checkpoint, scores)


def score_holdout(
    network: NiN, preprocessing: Preprocessing, dataset: Dataset, device: torch.device
) -> tuple[float, float] | None:
    """Accuracy and loss (`metrics.calibrated_loss`) of a network on the hold-out.

    Args:
        network: a network on the device; put into evaluation mode and left in it.
        preprocessing: its preprocessing.
        dataset: the data.
        device: device to compute on.

    Returns:
        None if a logit is not finite.
    """
    give_back_memory()
    logits = predict.logits(network, preprocessing, dataset.images, dataset.holdout, device)
    give_back_memory()
    if not np.isfinite(logits).all():
        return None
    targets = dataset.targets[dataset.holdout]
    return metrics.top1(logits, targets), metrics.calibrated_loss(logits, targets)


def _images(best: Checkpoint, dataset: Dataset, count: int) -> list[Tensor]:
    """Some training images without augmentation: batches of float32 (N, C, S, S)."""
    drawn = np.random.default_rng(0).permutation(dataset.train)[:count]
    return list(predict.inputs(best.preprocessing, dataset.images, np.sort(drawn)))


def _rounding_images(config: NetworkConfig) -> int:
    """How many images rounding takes: those whose maps, of one layer, fit into memory."""
    return max(2, min(CALIBRATION_IMAGES, _MAP_VALUES // config.work().largest))


def _logits(
    best: Checkpoint,
    network: NiN,
    dataset: Dataset,
    indices: NDArray[np.int64],
    device: torch.device | str,
    should_stop: Callable[[], bool],
) -> NDArray[np.float32]:
    """The network's logits for the chosen images, (N, K)."""
    parts = []
    for part in np.array_split(indices, math.ceil(len(indices) / _UNINTERRUPTED)):
        if should_stop():
            raise TrainingStoppedError("stopped after the last step, before it was scored")
        parts.append(predict.logits(network, best.preprocessing, dataset.images, part, device))
    return np.concatenate(parts)

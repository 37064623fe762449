"""The certificate: how far a file is from PyTorch, measured through the devices' own runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nin_edge import evaluate, metrics
from nin_edge.checkpoint import Checkpoint
from nin_edge.datasets import Dataset, check_labels
from nin_edge.network import NiN
from nin_edge_runtime import Classifier, GateError
from nin_edge_runtime.golden import FORMULA, golden_image

TOLERANCE: Final = 1e-4
"""Largest difference of a probability from PyTorch's that an fp32 file may have."""

MARGIN: Final = 0.2
"""Distance of the two best probabilities from which a golden sample's answer is firm."""

NOT_MEASURED: Final = "not measured"

# (height, width) of the golden samples, in quarters of the network's size: enlarged, reduced,
# cropped on either axis.
_GOLDEN_SIZES: Final = ((4, 4), (4, 6), (2, 3), (8, 8), (6, 5), (16, 12), (12, 20), (3, 3))
_SEEDS_TRIED: Final = 64  # for each size, until one gives a firm answer
_BATCH: Final = 100


@dataclass(frozen=True)
class GoldenReference:
    """The golden samples of a checkpoint, and what PyTorch says of them."""

    formula: int
    """Which formula draws them."""
    images: tuple[tuple[int, int, int], ...]
    """(seed, height, width) of each."""
    pytorch: tuple[tuple[float, ...], ...]
    """Probabilities (K,) of each, rounded to 7 decimals."""

    def margins(self) -> list[float]:
        """Distance between the two best probabilities of each sample."""
        return [best - second for *_, second, best in map(sorted, self.pytorch)]


def choose_golden(checkpoint: Checkpoint, network: NiN) -> GoldenReference:
    """For each size the first seed whose answer is firm, or the firmest of those tried.

    Args:
        checkpoint: preprocessing and temperature.
        network: its network, in evaluation mode.
    """
    images, rows = [], []
    size = checkpoint.preprocessing.size
    for index, (tall, wide) in enumerate(_GOLDEN_SIZES):
        height, width = size * tall // 4, size * wide // 4
        seeds = range(index * _SEEDS_TRIED, (index + 1) * _SEEDS_TRIED)
        pixels = np.stack(
            [checkpoint.preprocessing.resize(golden_image(seed, height, width)) for seed in seeds]
        )  # (64, S, S, C)
        probabilities = _pytorch(checkpoint, network, pixels, np.arange(len(pixels)))
        ordered = np.sort(probabilities, axis=1)
        margins = ordered[:, -1] - ordered[:, -2]
        firm = np.flatnonzero(margins >= MARGIN)
        chosen = int(firm[0]) if len(firm) else int(margins.argmax())
        images.append((seeds[chosen], height, width))
        rows.append(_rounded(probabilities[chosen]))
    return GoldenReference(FORMULA, tuple(images), tuple(rows))


def check_golden(
    classify: Classifier, golden: GoldenReference
) -> tuple[tuple[tuple[float, ...], ...], dict[str, Any]]:
    """Run a file over the golden samples and compare it with PyTorch.

    Returns:
        The file's probabilities, rounded to 7 decimals, and the certificate's part on them.

    Raises:
        GateError: a probability differs by more than the tolerance.
    """
    answers = np.stack([classify(golden_image(*image)).probabilities for image in golden.images])
    figures = _compare(answers, np.array(golden.pytorch), "the golden samples")
    figures["firm_answers"] = sum(margin >= MARGIN for margin in golden.margins())
    return tuple(_rounded(row) for row in answers), {"golden": figures, "images": NOT_MEASURED}


def check_images(
    classify: Classifier,
    checkpoint: Checkpoint,
    network: NiN,
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compare a file with PyTorch over a data set's test split, and measure its accuracy there.

    Raises:
        DatasetError: the labels are not the model's.
        GateError: a probability differs by more than the tolerance.
    """
    check_labels(dataset, checkpoint.labels)
    indices = dataset.test
    answers, reference = [], []
    for start in range(0, len(indices), _BATCH):
        chosen = indices[start : start + _BATCH]
        answers += [
            prediction.probabilities for prediction in classify.batch(list(dataset.images[chosen]))
        ]
        reference.append(_pytorch(checkpoint, network, dataset.images, chosen))
        if progress:
            progress(start + len(chosen), len(indices))
    file = np.stack(answers)
    return {
        "data": dataset.name,
        **_compare(file, np.concatenate(reference), dataset.name),
        "top1": metrics.top1(file, dataset.targets[indices]),
    }


def trained_figures(checkpoint: Checkpoint) -> dict[str, Any]:
    """What training measured with PyTorch on the test split: accuracy and calibration error."""
    measured = checkpoint.metrics
    accuracy: dict[str, Any] | str = NOT_MEASURED
    calibration: dict[str, Any] | str = NOT_MEASURED
    if "test_top1" in measured:
        common = {
            "data": checkpoint.data.name,
            "images": measured["test_images"],
            "measured_with": "PyTorch, fp32",
        }
        accuracy = {**common, "top1": measured["test_top1"]}
        if checkpoint.temperature is not None:
            calibration = {
                **common,
                "temperature": checkpoint.temperature,
                "ece_before": measured["test_ece_uncalibrated"],
                "ece_after": measured["test_ece"],
            }
    return {"accuracy": accuracy, "calibration": calibration, "float_layers": "all"}


def _compare(
    answers: NDArray[np.floating], reference: NDArray[np.floating], what: str
) -> dict[str, Any]:
    """How far two sets of probabilities (N, K) are apart; refuses those that are too far."""
    difference = float(np.abs(answers - reference).max())
    agreement = float((answers.argmax(axis=1) == reference.argmax(axis=1)).mean())
    if not difference <= TOLERANCE:  # a NaN is no agreement either
        raise GateError(
            f"the exported model differs from PyTorch by {difference:.2g} on {what}, "
            f"the tolerance is {TOLERANCE:g} "
            f"(equal answers on {agreement:.2%} of {len(answers)} images)"
        )
    return {
        "count": len(answers),
        "max_abs_difference": float(f"{difference:.2g}"),
        "top1_agreement": agreement,
        "tolerance": TOLERANCE,
    }


def _pytorch(
    checkpoint: Checkpoint, network: NiN, images: NDArray[np.uint8], indices: NDArray[np.int64]
) -> NDArray[np.float64]:
    """PyTorch's probabilities (N, K) for the chosen images."""
    logits = evaluate.logits(network, checkpoint.preprocessing, images, indices)
    return metrics.softmax(logits, checkpoint.temperature or 1.0)


def _rounded(row: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(round(float(value), 7) for value in row)

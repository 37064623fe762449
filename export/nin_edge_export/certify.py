"""The certificate: how far a file is from PyTorch, measured through the devices' own runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nin_edge import metrics
from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.metrics import Threshold
from nin_edge.network import NiN
from nin_edge_runtime import Classifier, GateError, ModelFileError
from nin_edge_runtime.golden import FORMULA, golden_image

TOLERANCES: Final = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1.0}
"""Largest difference of a probability from PyTorch's, by precision; int8's answers are judged."""

MARGIN: Final = 0.2
"""Distance of the two best probabilities from which a golden sample's answer is firm."""

NOT_MEASURED: Final = "not measured"

BY_FILE: Final = "this file"
BY_PYTORCH: Final = "PyTorch, fp32"
"""What a figure was measured with."""

FITTED_HERE: Final = "fitted on these images"
FITTED_BEFORE: Final = "fitted in training"
"""Where the temperature is from; one number flatters the images it was fitted on a little."""

# (height, width) of the golden samples, in quarters of the network's size: enlarged, reduced,
# cropped on either axis.
_GOLDEN_SIZES: Final = ((4, 4), (4, 6), (2, 3), (8, 8), (6, 5), (16, 12), (12, 20), (3, 3))
_SEEDS_TRIED: Final = 64  # for each size, until one gives a firm answer
_BATCH: Final = 100

Rows: TypeAlias = tuple[tuple[float, ...], ...]
"""Probabilities (K,) of several images, as they are stored."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, the number of images done and their total."""


@dataclass(frozen=True)
class Golden:
    """The golden samples of a checkpoint, and what PyTorch says of them."""

    formula: int
    """Which formula draws them."""
    images: tuple[tuple[int, int, int], ...]
    """(seed, height, width) of each."""
    pytorch: Rows
    """Probabilities (K,) of each, rounded to 7 decimals."""

    def firm(self) -> list[bool]:
        """Which samples have an answer that PyTorch is sure of: rounding seldom changes it."""
        return [best - second >= MARGIN for *_, second, best in map(sorted, self.pytorch)]


def choose_golden(checkpoint: Checkpoint, network: NiN) -> Golden:
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
        probabilities = pytorch_answers(checkpoint, network, pixels, np.arange(len(pixels)))
        ordered = np.sort(probabilities, axis=1)
        margins = ordered[:, -1] - ordered[:, -2]
        firm = np.flatnonzero(margins >= MARGIN)
        chosen = int(firm[0]) if len(firm) else int(margins.argmax())
        images.append((seeds[chosen], height, width))
        rows.append(_rounded(probabilities[chosen]))
    return Golden(FORMULA, tuple(images), tuple(rows))


def check_golden(classify: Classifier, golden: Golden) -> tuple[Rows, dict[str, Any]]:
    """Run a file over the golden samples and compare it with PyTorch.

    Returns:
        The file's probabilities, rounded to 7 decimals, and the certificate's part on them.

    Raises:
        GateError: a probability differs by more than the tolerance, or most of the firm answers are
            others. (A few may be in int8: the samples look like nothing that a network was trained
            on, and good networks have answered two of eight otherwise.)
    """
    try:
        answers = np.stack(
            [classify.graph_probabilities(golden_image(*image)) for image in golden.images]
        )
    except ModelFileError as error:  # the runtime refuses answers that are no numbers
        precision = classify.info.precision
        raise GateError(f"the {precision} model computes no numbers: {error}") from error
    reference, firm = np.array(golden.pytorch), np.array(golden.firm())
    figures = compare(answers, reference, classify.info.precision, "the golden samples")
    changed = int((answers.argmax(axis=1) != reference.argmax(axis=1))[firm].sum())
    if 2 * changed > firm.sum():
        raise GateError(
            f"the {classify.info.precision} model gives other answers than PyTorch to {changed} of "
            f"{int(firm.sum())} golden samples of which PyTorch is sure"
        )
    return tuple(_rounded(row) for row in answers), {**figures, "firm_answers": int(firm.sum())}


def file_answers(
    classify: Classifier,
    dataset: Dataset,
    indices: NDArray[np.int64],
    what: str,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """A file's probabilities (N, K) for the chosen images, through the runtime."""
    answers = []
    for start in range(0, len(indices), _BATCH):
        chosen = indices[start : start + _BATCH]
        pixels = list(dataset.images[chosen])
        answers += [prediction.probabilities for prediction in classify.batch(pixels)]
        if progress:
            progress(what, start + len(chosen), len(indices))
    return np.stack(answers)


def pytorch_answers(
    checkpoint: Checkpoint, network: NiN, images: NDArray[np.uint8], indices: NDArray[np.int64]
) -> NDArray[np.float64]:
    """PyTorch's probabilities (N, K) for the chosen images."""
    logits = evaluate.logits(network, checkpoint.preprocessing, images, indices)
    return metrics.softmax(logits, checkpoint.temperature or 1.0)


def compare(
    answers: NDArray[np.floating], reference: NDArray[np.floating], precision: str, what: str
) -> dict[str, Any]:
    """How far a file's probabilities (N, K) are from PyTorch's; refuses those that are too far.

    Raises:
        GateError: a probability differs by more than the precision's tolerance.
    """
    tolerance = TOLERANCES[precision]
    difference = float(np.abs(answers - reference).max())
    agreement = float((answers.argmax(axis=1) == reference.argmax(axis=1)).mean())
    if not difference <= tolerance:  # a NaN is no agreement either
        raise GateError(
            f"the {precision} model differs from PyTorch by {difference:.2g} on {what}, "
            f"the tolerance is {tolerance:g} "
            f"(equal answers on {agreement:.2%} of {len(answers)} images)"
        )
    return {
        "count": len(answers),
        "max_abs_difference": float(f"{difference:.2g}"),
        "top1_agreement": agreement,
        "tolerance": tolerance,
    }


def threshold_figures(
    found: Sequence[Threshold], *, data: str, images: int, measured_with: str, temperature: str
) -> dict[str, Any]:
    """The certificate's part on what a `min_score` gives on the hold-out.

    Args:
        found: coverage and accuracy at each threshold.
        data: name of the data set.
        images: in its hold-out.
        measured_with: `BY_FILE` or `BY_PYTORCH`.
        temperature: `FITTED_HERE` or `FITTED_BEFORE`.
    """
    return {
        "data": data,
        "split": "holdout",
        "images": images,
        "measured_with": measured_with,
        "temperature": temperature,
        "answers": [asdict(threshold) for threshold in found],
    }


def trained_figures(checkpoint: Checkpoint) -> dict[str, Any]:
    """What training measured with PyTorch: accuracy, calibration error, what a `min_score` gives.

    The last on the hold-out, the others on the test split.
    """
    measured = checkpoint.metrics
    thresholds = _trained_thresholds(checkpoint)
    if "test_top1" not in measured:
        return {"accuracy": NOT_MEASURED, "calibration": NOT_MEASURED, "thresholds": thresholds}
    common = {
        "data": checkpoint.data.name,
        "images": measured["test_images"],
        "measured_with": BY_PYTORCH,
    }
    calibration: dict[str, Any] | str = NOT_MEASURED
    if checkpoint.temperature is not None:
        calibration = {
            **common,
            "ece_before": measured["test_ece_uncalibrated"],
            "ece_after": measured["test_ece"],
        }
    return {
        "accuracy": {**common, "top1": measured["test_top1"]},
        "calibration": calibration,
        "thresholds": thresholds,
    }


def _trained_thresholds(checkpoint: Checkpoint) -> dict[str, Any] | str:
    measured = checkpoint.metrics
    found = [
        Threshold(value, measured[coverage], measured.get(f"holdout_top1_at_{value:g}"))
        for value in metrics.THRESHOLDS
        if (coverage := f"holdout_coverage_at_{value:g}") in measured
    ]
    if checkpoint.temperature is None or not found:
        return NOT_MEASURED
    return threshold_figures(
        found,
        data=checkpoint.data.name,
        images=int(measured["holdout_images"]),
        measured_with=BY_PYTORCH,
        temperature=FITTED_HERE,
    )


def _rounded(row: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(round(float(value), 7) for value in row)

"""Golden samples: chosen for a checkpoint, then checked with each of its models."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NiN
from nin_edge_export.parity import compare, pytorch_probabilities
from nin_edge_runtime import GateError
from nin_edge_runtime.golden import FORMULA, golden_image
from nin_edge_runtime.model_file import GoldenSamples
from nin_edge_runtime.model_file.certificate import Agreement
from nin_edge_runtime.session import ModelSession

MARGIN: Final = 0.2
"""Distance of the two best probabilities from which rounding rarely changes the prediction.

A sample with that distance is firm.
"""

# (height, width) of the samples, in quarters of the network's size: enlarged, reduced, cropped on
# either axis.
_SIZES: Final = ((4, 4), (4, 6), (2, 3), (8, 8), (6, 5), (16, 12), (12, 20), (3, 3))
_INT8_DIFFERENCE: Final = 0.5  # 0.04 at most in the weights that ship; 0.14 before rounding them
_SEEDS_TRIED: Final = 64  # for each size, until one is firm
_SEEDS_AT_ONCE: Final = 16  # smaller batches use other kernels in PyTorch, which round differently


def choose_golden(checkpoint: Checkpoint, network: NiN) -> GoldenSamples:
    """For each size the first seed whose sample is firm, or the firmest of those tried.

    Args:
        checkpoint: preprocessing and temperature.
        network: its network, in evaluation mode.

    Returns:
        The samples with PyTorch's probabilities; those of a file are still to be measured.
    """
    images, rows = [], []
    size = checkpoint.preprocessing.size
    for index, (tall, wide) in enumerate(_SIZES):
        height, width = size * tall // 4, size * wide // 4
        seeds = range(index * _SEEDS_TRIED, (index + 1) * _SEEDS_TRIED)
        seed, row = _choose_seed(checkpoint, network, seeds, height, width)
        images.append((seed, height, width))
        rows.append(_rounded(row))
    return GoldenSamples(FORMULA, tuple(images), pytorch=tuple(rows), file=())


def _choose_seed(
    checkpoint: Checkpoint, network: NiN, seeds: range, height: int, width: int
) -> tuple[int, NDArray[np.float64]]:
    """The first seed whose sample is firm, or the firmest of all, and its probabilities (K,)."""
    firmest: tuple[float, int, NDArray[np.float64]] | None = None
    for start in range(0, len(seeds), _SEEDS_AT_ONCE):
        tried = seeds[start : start + _SEEDS_AT_ONCE]
        pixels = np.stack(
            [checkpoint.preprocessing.resize(golden_image(seed, height, width)) for seed in tried]
        )  # (16, S, S, C)
        probabilities = pytorch_probabilities(checkpoint, network, pixels, np.arange(len(pixels)))
        margins = _margins(probabilities)
        firm = np.flatnonzero(margins >= MARGIN)
        best = int(firm[0]) if len(firm) else int(margins.argmax())
        if firmest is None or margins[best] > firmest[0]:
            firmest = (float(margins[best]), tried[best], probabilities[best])
        if len(firm):
            break
    assert firmest is not None  # there are seeds
    return firmest[1:]


def check_golden(session: ModelSession, golden: GoldenSamples) -> tuple[GoldenSamples, Agreement]:
    """Run a model over the golden samples and compare it with PyTorch.

    Returns:
        The samples with the model's probabilities, rounded to 7 decimals, and the agreement.

    Raises:
        GateError: a probability differs by more than the tolerance (0.5 in int8), or the prediction
            changes for most of the firm samples. (A few may change in int8: the samples resemble no
            training image, and good networks have changed two of eight.)
    """
    probabilities = np.concatenate(
        [session.graph(golden_image(*image)[np.newaxis])[0] for image in golden.images]
    )
    precision, reference = session.info.precision, np.array(golden.pytorch)
    firm = _margins(reference) >= MARGIN
    agreement = compare(probabilities, reference, precision, None)
    changed = int((probabilities.argmax(axis=1) != reference.argmax(axis=1))[firm].sum())
    if 2 * changed > firm.sum():
        raise GateError(
            f"the {precision} model predicts other classes than PyTorch for {changed} of "
            f"{int(firm.sum())} golden samples whose two best classes are well apart"
        )
    if precision == "int8" and agreement.max_abs_difference > _INT8_DIFFERENCE:
        raise GateError(
            f"the int8 model differs from PyTorch by {agreement.max_abs_difference} on the golden "
            f"samples, expected at most {_INT8_DIFFERENCE}"
        )
    measured = replace(golden, file=tuple(_rounded(row) for row in probabilities))
    return measured, replace(agreement, firm_answers=int(firm.sum()))


def _margins(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Distance of each row's two largest probabilities, (N, K) -> (N,)."""
    ordered = np.sort(probabilities, axis=1)
    margins: NDArray[np.floating] = ordered[:, -1] - ordered[:, -2]
    return margins


def _rounded(row: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(round(float(value), 7) for value in row)

"""How far a model is from PyTorch, measured in the runtime that devices use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nin_edge import metrics, predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NiN
from nin_edge_runtime import GateError
from nin_edge_runtime.model_file.certificate import Agreement
from nin_edge_runtime.session import ModelSession

TOLERANCES: Final = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1.0}
"""Largest difference of a probability from PyTorch's, by precision; int8 is judged by top-1."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, the number of images done and their total."""


def session_probabilities(
    session: ModelSession,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    *,
    title: str = "",
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """A model's probabilities for the chosen images.

    Args:
        session: the model.
        images: as the network sees them, (M, S, S, C).
        indices: (N,), which of them.
        title: names the work for `progress`.
        progress: called with the title, the images done and their total.

    Returns:
        (N, K).

    Raises:
        ModelFileError: the outputs are no probabilities.
    """
    parts: list[NDArray[np.float32]] = []
    done = 0
    for pixels in predict.batches(images, indices):
        parts.append(session.run(pixels)[0])
        done += len(pixels)
        if progress:
            progress(title, done, len(indices))
    return np.concatenate(parts)


def pytorch_probabilities(
    checkpoint: Checkpoint, network: NiN, images: NDArray[np.uint8], indices: NDArray[np.int64]
) -> NDArray[np.float64]:
    """PyTorch's probabilities (N, K) for the chosen images.

    Args:
        checkpoint: preprocessing and temperature.
        network: its network, in evaluation mode.
        images: as the network sees them, (M, S, S, C).
        indices: (N,), which of them.
    """
    logits = predict.logits(network, checkpoint.preprocessing, images, indices)
    return metrics.softmax(logits, checkpoint.temperature or 1.0)


def compare(
    probabilities: NDArray[np.floating],
    reference: NDArray[np.floating],
    precision: str,
    data: str | None,
) -> Agreement:
    """Compare a model's probabilities (N, K) with PyTorch's, and refuse those that are too far off.

    Args:
        probabilities: the model's.
        reference: PyTorch's.
        precision: the model's, which decides on the tolerance.
        data: name of the data set; None for the golden samples.

    Raises:
        GateError: a probability differs by more than the tolerance.
    """
    tolerance = TOLERANCES[precision]
    difference = float(np.abs(probabilities - reference).max())
    agreement = float((probabilities.argmax(axis=1) == reference.argmax(axis=1)).mean())
    if not difference <= tolerance:  # a NaN does not pass either
        raise GateError(
            f"the {precision} model differs from PyTorch by {difference:.2g} on "
            f"{data or 'the golden samples'}, the tolerance is {tolerance:g} "
            f"(top-1 agreement {agreement:.2%} on {len(probabilities)} images)"
        )
    return Agreement(
        data=data,
        count=len(probabilities),
        max_abs_difference=float(f"{difference:.2g}"),
        top1_agreement=agreement,
        tolerance=tolerance,
    )

"""Replaying a model's golden samples: does this machine compute what the exporting machine did?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nin_edge_runtime.errors import GateError
from nin_edge_runtime.golden import golden_image

if TYPE_CHECKING:
    from nin_edge_runtime.classifier import Classifier

TOLERANCES: Final = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2}
"""Largest difference of a probability between two machines, by precision.

Machines use different kernels, which round differently.
"""


@dataclass(frozen=True)
class Replay:
    """The golden samples of a model file on this machine."""

    count: int
    """Number of samples."""
    difference: float
    """Largest difference of a probability from the file's own, 0 to 1."""
    tolerance: float
    """Largest difference that passes."""


def replay(classify: Classifier) -> Replay:
    """Run a model's golden samples and compare with the probabilities stored in the file.

    Raises:
        GateError: a probability differs by more than the precision's tolerance.
    """
    golden, precision = classify.info.golden, classify.info.precision
    probabilities = [
        classify.graph(golden_image(*image)[np.newaxis]).probabilities[0] for image in golden.images
    ]
    difference = float(np.abs(np.array(probabilities) - golden.file).max())
    result = Replay(len(golden.images), difference, TOLERANCES[precision])
    if not difference <= result.tolerance:  # a NaN does not pass either
        raise GateError(
            f"{classify.name}: computes other probabilities here than where it was exported: "
            f"its golden samples differ by {difference:.2g} on {classify.provider}, "
            f"expected at most {result.tolerance:g} for {precision}"
        )
    return result

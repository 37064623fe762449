"""The accuracy budget of int8: which convolutions cost accuracy, and which stay in float."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from nin_edge import metrics
from nin_edge_export.graph import network_nodes
from nin_edge_runtime import GateError
from nin_edge_runtime.model_file.certificate import Budget

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Plan:
    """What quantisation costs on the hold-out, and which convolutions stay in float for it."""

    keep_float: tuple[str, ...]
    """Convolutions that stay in fp32, the most sensitive first."""
    sensitivity: Mapping[str, float]
    """By convolution: mean Kullback-Leibler divergence, in nats, if it alone is quantised."""
    budget: Budget
    """Accuracies on the hold-out, and the drop in points."""


def plan_int8(
    graph: ModelProto,
    quantized: Callable[[Collection[str]], ModelProto],
    probabilities: Callable[[ModelProto, str], NDArray[np.floating]],
    targets: NDArray[np.int64],
    *,
    max_drop: float | None,
    data: str,
) -> Int8Plan:
    """Measure each convolution's sensitivity; keep the worst in fp32 until the budget is met.

    Args:
        graph: the fp32 model.
        quantized: makes it int8, but for the convolutions it is given.
        probabilities: gives a model's probabilities (N, K) for the hold-out; called with the model
            and what is being measured.
        targets: (N,), the hold-out's classes.
        max_drop: largest loss of top-1 accuracy against fp32, in percentage points; None for any.
        data: name of the data set, for errors.

    Raises:
        GateError: the budget does not hold before every convolution is back in float.
    """
    reference = probabilities(graph, "fp32 on the hold-out").astype(np.float64)
    base = metrics.top1(reference, targets)
    convolutions = [node.name for node in network_nodes(graph) if node.op_type == "Conv"]
    sensitivity = {}
    for name in convolutions:
        others = [other for other in convolutions if other != name]
        alone = probabilities(quantized(others), f"{name} in int8").astype(np.float64)
        sensitivity[name] = metrics.divergence(reference, alone)
    worst_first = sorted(convolutions, key=lambda name: -sensitivity[name])
    for count in range(len(worst_first)):
        kept = tuple(worst_first[:count])
        top1 = metrics.top1(probabilities(quantized(kept), "int8"), targets)
        drop = round(100 * (base - top1), 6)  # three images of 1,000 are 0.3 points, no more
        _logger.info("int8 with %d convolutions in float: %.2f points lost", count, drop)
        if max_drop is None or drop <= max_drop:
            return Int8Plan(kept, sensitivity, Budget(len(targets), base, top1, drop, max_drop))
    raise GateError(
        f"int8 loses {drop:.2f} points on the hold-out of {data} with all but one "
        f"convolution in float, the budget is {max_drop:g}"
    )

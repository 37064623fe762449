"""The accuracy budget of int8: which convolutions cost accuracy, and which go back to float."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from nin_edge import metrics
from nin_edge.data import Dataset
from nin_edge_export.certify import Progress, file_answers
from nin_edge_export.graph import network_nodes
from nin_edge_runtime import Classifier, GateError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Plan:
    """What quantisation costs on the hold-out, and what is done about it."""

    keep_float: tuple[str, ...]
    """Convolutions that stay in fp32, the most sensitive first."""
    sensitivity: Mapping[str, float]
    """By convolution: mean Kullback-Leibler divergence, in nats, if it alone is quantised."""
    figures: Mapping[str, Any]
    """The certificate's part on it: accuracies on the hold-out, and the drop in points."""


def plan_int8(
    graph: ModelProto,
    quantized: Callable[[Collection[str]], ModelProto],
    opened: Callable[[ModelProto], Classifier],
    dataset: Dataset,
    max_drop: float | None,
    progress: Progress | None = None,
) -> Int8Plan:
    """Measure each convolution's sensitivity, and return the worst to float until the budget holds.

    Args:
        graph: the fp32 model.
        quantized: makes it int8, but for the convolutions it is given.
        opened: makes a classifier of a graph.
        dataset: choices are made on its hold-out.
        max_drop: largest loss of top-1 accuracy against fp32, in percentage points; None for any.
        progress: told how many images are done.

    Raises:
        GateError: the budget does not hold before every convolution is back in float.
    """
    targets = dataset.targets[dataset.holdout]

    def answers(model: ModelProto, what: str) -> NDArray[np.float64]:
        found = file_answers(opened(model), dataset, dataset.holdout, what, progress)
        return found.astype(np.float64)

    reference = answers(graph, "fp32 on the hold-out")
    base = metrics.top1(reference, targets)
    convolutions = [node.name for node in network_nodes(graph) if node.op_type == "Conv"]
    sensitivity = {}
    for name in convolutions:
        others = [other for other in convolutions if other != name]
        alone = answers(quantized(others), f"{name} in int8")
        sensitivity[name] = metrics.divergence(reference, alone)
    worst = sorted(convolutions, key=lambda name: -sensitivity[name])
    for count in range(len(worst)):
        kept = tuple(worst[:count])
        top1 = metrics.top1(answers(quantized(kept), "int8"), targets)
        drop = round(100 * (base - top1), 6)  # three images of 1,000 are 0.3 points, no more
        _logger.info("int8 with %d convolutions in float: %.2f points lost", count, drop)
        if max_drop is None or drop <= max_drop:
            figures = {
                "holdout_images": len(targets),
                "fp32_top1": base,
                "int8_top1": top1,
                "drop_points": drop,
                "max_drop_points": max_drop,
            }
            return Int8Plan(kept, sensitivity, figures)
    raise GateError(
        f"int8 loses {drop:.2f} points on the hold-out of {dataset.name} with all but one "
        f"convolution in float, the budget is {max_drop:g}"
    )

"""Other engines that run an exported graph as it is, as `python -m benchmarks.engines` measured.

An engine may load a graph and answer wrongly without an error, so nothing here is assumed. The
table holds what the committed answer of that benchmark holds, which a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nin_edge_runtime.model_file import PRECISIONS
from nin_edge_runtime.preprocessing import Preprocessing


@dataclass(frozen=True)
class Engine:
    """An engine and the graphs that it runs."""

    name: str
    """Its name and version, and those of its converter if it needs one."""
    embedded: tuple[str, ...]
    """Preprocessing that the graph may do: `normalize` or `none`."""
    precisions: tuple[str, ...]
    """Precisions that the graph may have."""


ENGINES: Final = (
    Engine("OpenVINO 2026.4.1", ("normalize", "none"), PRECISIONS),
    Engine("OpenCV 5.0.0.93", ("normalize", "none"), PRECISIONS),
    Engine("OpenCV 4.14.0.94", ("none",), PRECISIONS),
    Engine("tract 0.23.9", ("normalize", "none"), PRECISIONS),
    Engine("LiteRT 2.3.0 by onnx2tf 1.29.24", ("normalize", "none"), ("fp32", "fp16")),
    Engine("ncnn 1.0.20261020 by pnnx 20261020", ("none",), ("fp32",)),
)
"""The engines beside ONNX Runtime, which runs every graph."""

OPSETS: Final = (13, 18)
"""Opsets of the graphs that were measured."""

BATCHES: Final = (None, 1)
"""Batch sizes of the graphs that were measured; None is a free one."""


def engines_of(
    preprocessing: Preprocessing, embedded: str, precision: str, opset: int, batch: int | None
) -> tuple[str, ...] | None:
    """Names of the engines in which such a graph gave the right probabilities.

    Args:
        preprocessing: of the network.
        embedded: which preprocessing the graph does: `full`, `normalize` or `none`.
        precision: `fp32`, `fp16` or `int8`; of int8, graphs without layers in float.
        opset: version of the operators.
        batch: N, if it is fixed; None for a free one.

    Returns:
        Names with versions; empty if all failed; None if no such graph was measured.
    """
    # Grey networks have nodes for luma, and older weights others for normalisation.
    own_nodes = preprocessing.channels == 1 or preprocessing.zero_point is None
    if opset not in OPSETS or batch not in BATCHES or (embedded != "none" and own_nodes):
        return None
    return tuple(
        engine.name
        for engine in ENGINES
        if embedded in engine.embedded and precision in engine.precisions
    )

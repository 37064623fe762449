"""The width of a network for a latency: int8 exports of untrained networks, timed on this machine.

Latency does not depend on the values of the weights, so it can be measured before training. torch's
exporter takes seconds for a network. It runs once, for the narrowest one: the graph of a wider one
has the same nodes and larger weights.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np
from onnx import ModelProto, numpy_helper

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.network import NetworkConfig, NiN
from nin_edge.quantised_points import activation_ranges
from nin_edge_export.graph import build_graph, network_nodes
from nin_edge_export.int8.activation_ranges import DEFAULT_METHOD, recorded_ranges
from nin_edge_export.int8.quantize import quantize
from nin_edge_export.parity import Progress
from nin_edge_export.seal import describe
from nin_edge_runtime import NinEdgeError
from nin_edge_runtime.bench import time_calls
from nin_edge_runtime.golden import FORMULA, golden_image
from nin_edge_runtime.model_file import GoldenSamples
from nin_edge_runtime.preprocessing import Preprocessing
from nin_edge_runtime.session import ModelSession

WIDTHS: Final = tuple(step / 100 for step in range(5, 801))
"""Widths to choose from, ascending."""

SECONDS: Final = 3.0
"""How long the networks of one stage of the search are timed, in all."""

_STAGES: Final = 5  # at most; three are enough on an idle machine
_SEARCH: Final = 20.0  # seconds after which no stage starts
_RUNGS: Final = 8  # networks that are timed side by side in a stage
_CALLS: Final = 5  # in a round, one after the other, as in the export's report
_ROUND: Final = 0.05  # seconds of a network in a round, about: slow ones get fewer calls
_TOO_SLOW: Final = 2.5  # times the target: networks that would take so long are not timed
_IMAGES: Final = 8  # random ones, for the activation ranges

_logger = logging.getLogger(__name__)

Measure = Callable[[Sequence[int]], Sequence[float]]
"""Latencies of networks, by their index, measured side by side."""


def choose_width(
    network: NetworkConfig, target_ms: float, progress: Progress | None = None
) -> tuple[float, float]:
    """The largest width whose int8 file is as fast as asked for, on one thread and one image.

    The networks of a stage are timed in interleaved rounds, and their medians count. A busy machine
    slows them down, so it gives a narrower network.

    Args:
        network: the network, of any width.
        target_ms: largest median of a run of the full graph, in milliseconds.
        progress: called with what is being done, the networks done and their total.

    Returns:
        The width, one of `WIDTHS`, and the milliseconds measured.

    Raises:
        NinEdgeError: the narrowest network is slower.
    """
    networks = _different(network)
    untrained = Untrained(networks[0])

    def measure(chosen: Sequence[int]) -> list[float]:
        return untrained.latencies([networks[index] for index in chosen], target_ms, progress)

    widths = [candidate.width for candidate in networks]
    index, latency = widest_within(widths, target_ms, measure)
    if index < 0:
        raise NinEdgeError(
            f"latency is {target_ms:g} ms: the narrowest network, of width {widths[0]:g}, takes "
            f"{latency:.3g} ms on one thread of this machine; a smaller size is faster"
        )
    if index == len(widths) - 1:
        _logger.warning(
            "latency is %g ms: the widest network, of width %g, takes %.3g ms",
            *(target_ms, widths[index], latency),
        )
    return widths[index], latency


def widest_within(widths: Sequence[float], target_ms: float, measure: Measure) -> tuple[int, float]:
    """Index of the largest width within a latency, and its latency.

    Each stage measures some widths side by side, from the largest that was within to the next one
    that was not. Both are measured again: on a busy machine an earlier figure may be wrong. The
    last stage has neighbours of which one is within and the other is not, unless that takes long.

    Args:
        widths: ascending; their latencies rise, more or less.
        target_ms: the latency.
        measure: measures some of the widths.

    Returns:
        The index and the milliseconds; -1 and those of the smallest width if that is slower.
    """
    low, high = -1, len(widths)
    latest: dict[int, float] = {}
    deadline = time.monotonic() + _SEARCH
    for _ in range(_STAGES):
        rungs = _rungs(widths, max(low, 0), min(high, len(widths) - 1))
        latest |= zip(rungs, measure(rungs), strict=True)
        low = max((index for index, ms in latest.items() if ms <= target_ms), default=-1)
        high = min((index for index in latest if index > low), default=len(widths))
        neighbours = high - low == 1 and {low, high} <= {-1, *rungs, len(widths)}
        if neighbours or time.monotonic() > deadline:
            break
    return low, latest[max(low, 0)]


def _rungs(widths: Sequence[float], first: int, last: int) -> Sequence[int]:
    """Some indexes from the first to the last, whose widths have about equal ratios."""
    if last - first < _RUNGS:
        return range(first, last + 1)
    spaced = np.geomspace(widths[first], widths[last], _RUNGS)[1:-1]
    return sorted({first, *np.searchsorted(widths, spaced).tolist(), last})


def _different(network: NetworkConfig) -> list[NetworkConfig]:
    """The network in each of `WIDTHS` that changes a channel count and can be built."""
    found: dict[tuple[object, ...], NetworkConfig] = {}
    for width in WIDTHS:
        with suppress(ValueError):  # more work than a model file may ask for
            candidate = replace(network, width=width)
            found.setdefault(candidate.layer_shapes(), candidate)
    return list(found.values())


class Untrained:
    """Networks with random weights, of one shape and several widths, as files would run them."""

    def __init__(self, narrowest: NetworkConfig) -> None:
        """Export one of the networks; the others' graphs have the same nodes."""
        size, channels = narrowest.size, narrowest.channels
        # One mean and one scale, as trained networks have them; and a temperature other than 1.
        steps = Preprocessing(size, channels, (128 / 255,) * channels, (0.25,) * channels)
        images = np.random.default_rng(0).integers(
            0, 256, (_IMAGES, size, size, channels), dtype=np.uint8
        )
        network = NiN(narrowest)
        inputs = predict.inputs(steps, images, np.arange(_IMAGES))
        self._checkpoint = Checkpoint(
            config=narrowest,
            weights=network.state_dict(),
            labels=tuple(map(str, range(narrowest.classes))),
            preprocessing=steps,
            data=DataSource("none"),
            ranges=activation_ranges(network, inputs, _IMAGES),
            temperature=1.5,
        )
        self._graph = build_graph(self._checkpoint, "full")
        none = GoldenSamples(FORMULA, images=(), pytorch=(), file=())
        self._info = describe(self._checkpoint, precision="int8", embedded="full", golden=none)
        # (1, S, S, C): nothing is decoded or resized
        self.pixels = steps.resize(golden_image(0, size, size))[np.newaxis]

    def latencies(
        self, networks: Sequence[NetworkConfig], target_ms: float, progress: Progress | None
    ) -> list[float]:
        """Median milliseconds of each network; infinite from one that would be far too slow."""
        runs: dict[int, Callable[[], object]] = {}
        work = [network.multiply_adds() for network in networks]
        growth = [wider / narrower for narrower, wider in pairwise([*work, work[-1]])]
        calls = max(1, min(_CALLS, int(_ROUND / (1e-3 * target_ms))))
        for index, network in enumerate(networks):
            if progress:
                progress("timing untrained networks", index, len(networks))
            runs[index] = partial(self.session(network).run, self.pixels)
            _, first = time_calls({index: runs[index]}, seconds=0, calls=calls)
            expected = 1e3 * min(first[index]) * growth[index]
            if expected > _TOO_SLOW * target_ms:
                break
        _, times = time_calls(runs, seconds=SECONDS, calls=calls)
        if progress:
            progress("timing untrained networks", len(networks), len(networks))
        medians = [1e3 * statistics.median(seconds) for seconds in times.values()]
        return medians + [float("inf")] * (len(networks) - len(medians))

    def session(self, network: NetworkConfig, precision: str = "int8") -> ModelSession:
        """A network on one thread of the CPU.

        Args:
            network: like the first one, of any width.
            precision: `int8` or `fp32`.
        """
        checkpoint = replace(self._checkpoint, config=network, weights=NiN(network).state_dict())
        graph = with_weights(self._graph, checkpoint)
        if precision == "int8":
            ranges = recorded_ranges(checkpoint, graph, DEFAULT_METHOD)
            graph = quantize(checkpoint, graph, ranges)
        info = replace(self._info, precision=precision)
        data = graph.SerializeToString()
        return ModelSession(data, info, "an untrained network", provider="cpu", threads=1)


def with_weights(graph: ModelProto, checkpoint: Checkpoint) -> ModelProto:
    """A network's graph with the convolutions of an untrained network of another width.

    Batch normalisation that was never trained is folded as the identity.
    """
    model = ModelProto()
    model.CopyFrom(graph)
    names = {name for node in network_nodes(model) for name in node.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            layer = tensor.name.rpartition(".")[0]
            weight = checkpoint.weights[f"{layer}.weight"]
            value = checkpoint.weights.get(tensor.name, weight.new_zeros(len(weight)))
            tensor.CopyFrom(numpy_helper.from_array(value.numpy(), tensor.name))
    return model

"""Latency, throughput, load time and memory of model files on this machine."""

from nin_edge_runtime.bench.machine import Machine, this_machine
from nin_edge_runtime.bench.measurement import Bench, ModelFigures, measure
from nin_edge_runtime.bench.timing import SECONDS, interleave, median_ratio, time_calls

__all__ = [
    "SECONDS",
    "Bench",
    "Machine",
    "ModelFigures",
    "interleave",
    "measure",
    "median_ratio",
    "this_machine",
    "time_calls",
]

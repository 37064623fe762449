"""Latency, throughput, load time and memory of model files on this machine."""

from nin_edge_runtime.bench.loading import Cost, load_cost
from nin_edge_runtime.bench.machine import Machine, this_machine
from nin_edge_runtime.bench.measurement import Bench, ModelFigures, measure
from nin_edge_runtime.bench.timing import (
    BATCHES,
    CALLS,
    SECONDS,
    Timing,
    interleave,
    median_ratio,
    time_calls,
    time_models,
)
from nin_edge_runtime.cpu import processor_name

__all__ = [
    "BATCHES",
    "CALLS",
    "SECONDS",
    "Bench",
    "Cost",
    "Machine",
    "ModelFigures",
    "Timing",
    "interleave",
    "load_cost",
    "measure",
    "median_ratio",
    "processor_name",
    "this_machine",
    "time_calls",
    "time_models",
]

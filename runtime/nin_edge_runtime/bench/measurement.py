"""Latency, load time and memory of model files, side by side on this machine.

It needs only what a device has: NumPy and the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nin_edge_runtime.bench.loading import Cost, load_cost, median_cost
from nin_edge_runtime.bench.machine import Machine, this_machine
from nin_edge_runtime.bench.timing import (
    SECONDS,
    Progress,
    Timing,
    batch_sizes,
    time_models,
)
from nin_edge_runtime.classifier import Classifier
from nin_edge_runtime.threads import usable_threads

_LOADS: Final = 3  # processes a model; the median of their figures counts


@dataclass(frozen=True)
class ModelFigures:
    """The measurements of one model."""

    file: str
    """Its path."""
    bytes: int
    """Its size."""
    precision: str
    """`fp32`, `fp16` or `int8`."""
    size: int
    """S, side of its input images, in pixels."""
    provider: str
    """The active provider: `cpu` or `cuda`."""
    threads: int
    """Threads of one inference on the CPU."""
    load: Cost
    """Cost of loading it."""
    timings: tuple[Timing, ...]
    """By batch size, ascending."""
    left_out: tuple[int, ...]
    """Default batch sizes that were skipped because they take too long here."""


@dataclass(frozen=True)
class Bench:
    """The measurements of several models, and the machine they were made on."""

    machine: Machine
    """The machine."""
    rounds: int
    """Rounds, in each of which every model was called with every batch size."""
    models: tuple[ModelFigures, ...]
    """In the order they were named."""


def measure(
    models: Sequence[Path],
    *,
    provider: str = "auto",
    threads: int | None = None,
    batches: Sequence[int] | None = None,
    rounds: int | None = None,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Bench:
    """Measure models side by side.

    Args:
        models: paths of `.onnx` files, at least one.
        provider: `auto`, `cpu` or `cuda`.
        threads: threads of one inference on the CPU; `usable_threads()` if None.
        batches: images per call, each at least 1; one image is always measured. None for `BATCHES`
            without those for which a call takes over a second here.
        rounds: number of rounds; as many as fit into `seconds` if None.
        seconds: time for each model; at least one round is done.
        progress: called on the way.

    Raises:
        ModelFileError: a model cannot be loaded.
        ProviderError: the provider is unknown or not active.
        NinEdgeError: a process to load a model in failed.
    """
    classifiers = [Classifier(path, provider=provider, threads=threads) for path in models]
    costs: list[list[Cost]] = [[] for _ in models]
    for done in range(_LOADS * len(models)):  # interleaved, like the timing
        index = done % len(models)
        costs[index].append(load_cost(models[index], provider, threads))
        if progress:
            progress("loading, process", done + 1, _LOADS * len(models))
    count, timings = time_models(
        classifiers, batches=batches, rounds=rounds, seconds=seconds, progress=progress
    )
    requested = set(batch_sizes(batches))
    return Bench(
        machine=this_machine(),
        rounds=count,
        models=tuple(
            ModelFigures(
                file=str(path),
                bytes=path.stat().st_size,
                precision=classify.info.precision,
                size=classify.info.preprocessing.size,
                provider=classify.provider,
                threads=threads or usable_threads(),
                load=median_cost(cost),
                timings=timed,
                left_out=tuple(sorted(requested - {timing.batch for timing in timed})),
            )
            for path, classify, cost, timed in zip(models, classifiers, costs, timings, strict=True)
        ),
    )

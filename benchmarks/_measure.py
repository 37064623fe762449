"""What the benchmarks measure with; the interleaving itself is `nin_edge_runtime.bench`'s."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nin_edge.weights import WEIGHTS
from nin_edge_runtime.bench import interleave, median_ratio

CIFAR_WEIGHTS: Final = tuple(name for name in WEIGHTS if "cifar10" in name)
"""The weights that ship and were trained on CIFAR-10."""

WARM_UP: Final = 3
"""Rounds before those that count."""


@dataclass(frozen=True)
class Compared:
    """One candidate of a comparison."""

    median: float
    """Median over the rounds, in the unit that the candidates returned."""
    ratio: float
    """Median of its ratios, round by round, to the first candidate."""


def compare(
    candidates: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: int = WARM_UP
) -> dict[str, Compared]:
    """Measure candidates in interleaved rounds, so that noise of the machine strikes all alike.

    Args:
        candidates: what to call, by name; each returns seconds or another number.
        rounds: rounds that count.
        warm_up: rounds before them.
    """
    interleave(candidates, lambda done: done < warm_up)
    values = interleave(candidates, lambda done: done < rounds)
    base = next(iter(values.values()))
    return {
        name: Compared(statistics.median(own), median_ratio(own, base))
        for name, own in values.items()
    }


def timed(call: Callable[[], object], calls: int = 1) -> Callable[[], float]:
    """A candidate for `compare`: the mean seconds of a call, over `calls` of them."""

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls

    return measure


def run_step(module: str, *arguments: object) -> Any:
    """Run a part of a benchmark in a process of its own, for its own memory and imports.

    Returns:
        What that process printed as JSON.
    """
    command = [sys.executable, "-m", module, "--step", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

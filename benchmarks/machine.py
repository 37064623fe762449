"""What every measurement is reported with, and how two things are compared on a noisy machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from nin_edge_runtime import bench


def describe(*packages: str) -> str:
    """This machine and the versions of the given packages, on one line."""
    cpus = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{bench.processor_name()}, {cpus} CPUs, Python {platform.python_version()}, {versions}"


def interleave(
    candidates: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each candidate, all measured once a round, so that noise strikes them alike."""
    return bench.interleave(candidates, lambda done: done < rounds)


def report(seconds: Mapping[str, list[float]], unit: float = 1e3, name: str = "ms") -> None:
    """Print each candidate's median and its median ratio, round by round, to the first."""
    base = next(iter(seconds.values()))
    for candidate, values in seconds.items():
        ratio = bench.median_ratio(values, base)
        median = statistics.median(values) * unit
        print(f"{candidate:32} {median:9.3f} {name}  ratio {ratio:.3f}  ({len(values)} rounds)")


def timed(call: Callable[[], object], calls: int = 1) -> Callable[[], float]:
    """A measurement for `interleave`: the mean seconds of a call over `calls` of them."""

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls

    return measure


def run_step(module: str, *arguments: object) -> None:
    """Run a part of a benchmark in a process of its own, whose memory and imports are its own."""
    command = [sys.executable, "-m", module, "--step", *map(str, arguments)]
    subprocess.run(command, check=True)

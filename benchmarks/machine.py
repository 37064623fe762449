"""What every measurement is reported with, and how two things are compared on a noisy machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path


def describe(*packages: str) -> str:
    """This machine and the versions of the given packages, on one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text("utf-8").splitlines() if "model name" in line]
        model = names[0].split(":", 1)[1].strip() if names else model
    cpus = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{model}, {cpus} CPUs, Python {platform.python_version()}, {versions}"


def interleave(
    candidates: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each candidate, all measured once a round, so that noise strikes them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            seconds[name].append(measure())
    return seconds


def report(seconds: Mapping[str, list[float]], unit: float = 1e3, name: str = "ms") -> None:
    """Print each candidate's median and its median ratio, round by round, to the first."""
    base = next(iter(seconds.values()))
    for candidate, values in seconds.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        median = statistics.median(values) * unit
        print(f"{candidate:32} {median:9.3f} {name}  ratio {ratio:.3f}  ({len(values)} rounds)")

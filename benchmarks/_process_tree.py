"""The CPU time of a process and of all that it starts, over time; Linux only."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Final, Self

import numpy as np

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_EVERY: Final = 0.2  # seconds


class CpuTime:
    """Watches a process until it is closed."""

    def __init__(self, process: int) -> None:
        """Begin with the process of this number."""
        self._process = process
        self._seconds: dict[int, float] = {}  # by process, those that ended too
        self._samples: list[tuple[float, float]] = []  # (time, CPU seconds of all until then)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        """CPU seconds between two times, as `time.time()` gives them."""
        times, seconds = zip(*self._samples, strict=True)
        first, last = np.interp((start, end), times, seconds)
        return float(last - first)

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self._sample()

    def _sample(self) -> None:
        children: dict[int, list[int]] = defaultdict(list)
        used: dict[int, float] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                # The second field is a name in parentheses, which may have spaces.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended
                continue
            number = int(folder.name)
            children[int(fields[1])].append(number)
            used[number] = _TICK * (int(fields[11]) + int(fields[12]))
        pending = [self._process]
        while pending:
            number = pending.pop()
            pending += children[number]
            if number in used:
                self._seconds[number] = used[number]
        self._samples.append((time.time(), sum(self._seconds.values())))

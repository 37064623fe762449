"""What loading a model costs, in time and memory: measured in fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from nin_edge_runtime.classifier import Classifier
from nin_edge_runtime.errors import NinEdgeError

# The first entry of the path, empty with -c, is the current folder: its modules are not imported.
_CHILD: Final = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from nin_edge_runtime.bench.loading import print_load_cost; print_load_cost(*sys.argv[1:])"
)


@dataclass(frozen=True)
class Cost:
    """What loading one model costs in a process of its own."""

    load_ms: float
    """Milliseconds until its classifier is ready, after the modules were imported."""
    peak_memory_bytes: int | None
    """Peak resident memory of the process, after one image; None if unavailable."""
    added_memory_bytes: int | None
    """The part of it that came after importing the runtime and ONNX Runtime."""


def load_cost(model: Path, provider: str = "auto", threads: int | None = None) -> Cost:
    """Measure the cost of loading a model, in a fresh process.

    Args:
        model: path of an `.onnx` file.
        provider: `auto`, `cpu` or `cuda`.
        threads: threads of one inference on the CPU; `usable_threads()` if None.

    Raises:
        NinEdgeError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, model.absolute(), provider, str(threads or "")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NinEdgeError(f"{model}: a process of its own could not load it ({reason})")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def print_load_cost(model: str, provider: str, threads: str) -> None:
    """Load a model in this fresh process, and print the cost as JSON: `load_cost`'s child."""
    import onnxruntime  # noqa: F401  # its import counts neither as time nor as added memory

    before = _peak_memory()
    started = time.perf_counter()
    classify = Classifier(model, provider=provider, threads=int(threads) if threads else None)
    seconds = time.perf_counter() - started
    size = classify.info.preprocessing.size
    classify(np.zeros((size, size, 3), np.uint8))  # drawing a picture would take memory of its own
    after = _peak_memory()
    added = None if before is None or after is None else after - before
    sys.stdout.write(json.dumps(asdict(Cost(1e3 * seconds, after, added))))


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Take the median of each figure."""
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    added = [cost.added_memory_bytes for cost in costs if cost.added_memory_bytes is not None]
    return Cost(
        load_ms=statistics.median(cost.load_ms for cost in costs),
        peak_memory_bytes=statistics.median_low(peaks) if peaks else None,
        added_memory_bytes=statistics.median_low(added) if added else None,
    )


def _peak_memory() -> int | None:
    """Peak resident memory of this process, in bytes; None if unavailable."""
    try:
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # on Windows
        return None
    # On Linux a new process inherits its parent's figure here, so /proc comes first.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

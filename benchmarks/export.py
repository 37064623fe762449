"""What does `nin-edge export` take, in time and memory?

    python -m benchmarks.export [WEIGHTS...]

Exports WEIGHTS (checkpoints, or names of weights that ship; all that ship if none is given) in all
three precisions without data: time and peak memory of the whole process, imports included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._result import Row, answer, parser
from nin_edge.weights import WEIGHTS


def export(weights: str) -> tuple[float, float, int]:
    """Seconds and peak resident bytes of one export, and the bytes of its files."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "nin_edge", "export", weights, "--output", folder]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"nin-edge export {weights}: exit code {process.returncode}")
        sizes = sum(path.stat().st_size for path in Path(folder).glob("*.onnx"))
    return seconds, 1024 * usage.ru_maxrss, sizes  # kibibytes on Linux


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("weights", nargs="*")
    options = arguments.parse_args()
    rows: list[Row] = []
    for weights in options.weights or WEIGHTS:
        seconds, peak, sizes = export(weights)
        name = Path(weights).stem if os.sep in weights else weights
        rows.append({"weights": name, "seconds": seconds, "peak_mb": peak / 1e6, "bytes": sizes})
    answer(
        "export",
        rows,
        rounds="one process each",
        packages=("torch", "onnx", "onnxruntime", "numpy"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

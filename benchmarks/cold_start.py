"""How long does `nin-edge run photo.jpg` take as a whole process, against a script of ten lines?

python -m benchmarks.cold_start
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import describe, interleave, report
from nin_edge_runtime import DEFAULT_MODEL

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "examples" / "cat.jpg"
ROUNDS = 40


def _process(*command: object) -> float:
    started = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    ten_lines = ROOT / "benchmarks" / "ten_lines.py"
    script = Path(sys.executable).parent / "nin-edge"
    candidates = {
        "ten lines": lambda: _process(sys.executable, ten_lines, DEFAULT_MODEL, PHOTO),
        "nin-edge run": lambda: _process(script, "run", PHOTO),
    }
    interleave(candidates, 3)  # files into the page cache
    print(describe("onnxruntime", "numpy", "pillow", "click"))
    report(interleave(candidates, ROUNDS))


if __name__ == "__main__":
    main()

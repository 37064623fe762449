"""What does `nin-edge run photo.jpg` take as a whole process, against a script of ten lines?

Time, and peak resident memory.

python -m benchmarks.cold_start
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.machine import describe, interleave, report, timed
from nin_edge_runtime import DEFAULT_MODEL

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "examples" / "cat.jpg"
ROUNDS, PEAK_ROUNDS = 40, 5


def _process(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def _peak(*command: object) -> float:
    """Peak resident memory of a process, in bytes."""
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024  # kibibytes on Linux


def main() -> None:
    """Measure and print."""
    ten_lines = ROOT / "benchmarks" / "ten_lines.py"
    script = Path(sys.executable).parent / "nin-edge"
    commands = {
        "ten lines": (sys.executable, ten_lines, DEFAULT_MODEL, PHOTO),
        "nin-edge run": (script, "run", PHOTO),
    }
    candidates = {name: timed(partial(_process, *command)) for name, command in commands.items()}
    interleave(candidates, 3)  # files into the page cache
    print(describe("onnxruntime", "numpy", "pillow", "click"))
    report(interleave(candidates, ROUNDS))
    peaks = {name: partial(_peak, *command) for name, command in commands.items()}
    report(interleave(peaks, PEAK_ROUNDS), unit=1e-6, name="MB")


if __name__ == "__main__":
    main()

"""What does `nin-edge run photo.jpg` cost as a whole process, against a script of ten lines?

    python -m benchmarks.cold_start [--against PYTHON]

Time and peak resident memory. `--against` names the Python of another environment with nin-edge,
whose `nin-edge run` is measured in the same rounds: did a change make the start slower?
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks._measure import compare, timed
from benchmarks._result import ROOT, Row, answer, parser
from nin_edge_runtime import DEFAULT_MODEL

PHOTO: Final = ROOT / "examples" / "cat.jpg"
ROUNDS: Final = 40
PEAK_ROUNDS: Final = 5

TEN_LINES: Final = """
import sys
import numpy as np
import onnxruntime
from PIL import Image

LABELS = "airplane automobile bird cat deer dog frog horse ship truck".split()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = np.asarray(Image.open(sys.argv[2]).convert("RGB"))
probabilities = session.run(["probabilities"], {"image": image[None]})[0][0]
for best in np.argsort(-probabilities)[:5]:
    print(f"{LABELS[best]} {probabilities[best]:.1%}")
"""
"""What anyone would write by hand, with NumPy, Pillow and ONNX Runtime alone."""

_LAUNCHER: Final = """
import resource, subprocess, sys

subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run(*command: object) -> None:
    """Run a process to its end."""
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def peak(*command: object) -> float:
    """Peak resident memory of a process, in bytes."""
    # A process starts with its parent's memory, which counts: so the parent is a small one.
    launched = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, command)]
    done = subprocess.run(launched, check=True, stdout=subprocess.PIPE)
    return int(done.stdout) * 1024  # kibibytes on Linux


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("--against", type=Path, metavar="PYTHON")
    options = arguments.parse_args()
    commands: dict[str, tuple[object, ...]] = {
        "ten-line script": (sys.executable, "-c", TEN_LINES, DEFAULT_MODEL, PHOTO),
        "nin-edge run": (Path(sys.executable).parent / "nin-edge", "run", PHOTO),
    }
    if options.against:
        commands["nin-edge run, before"] = (options.against.parent / "nin-edge", "run", PHOTO)
    times = compare({name: timed(partial(run, *call)) for name, call in commands.items()}, ROUNDS)
    peaks = compare({name: partial(peak, *call) for name, call in commands.items()}, PEAK_ROUNDS)
    rows: list[Row] = [
        {
            "process": name,
            "milliseconds": 1e3 * times[name].median,
            "time_ratio": times[name].ratio,
            "peak_mb": peaks[name].median / 1e6,
            "memory_ratio": peaks[name].ratio,
        }
        for name in commands
    ]
    answer(
        "cold_start",
        rows,
        rounds=f"{ROUNDS} rounds for time, {PEAK_ROUNDS} for memory",
        packages=("onnxruntime", "numpy", "pillow", "click"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

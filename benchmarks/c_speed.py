"""What do start, memory and latency of the C library cost, against the Python runtime?

    python -m benchmarks.c_speed

Whole processes that label one photo with the default model, then calls in processes that run. Both
use one thread. It needs CMake, a C compiler and libjpeg-turbo.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import _c
from benchmarks._measure import compare, timed
from benchmarks._result import Row, answer, parser
from benchmarks.cold_start import PHOTO, peak, run
from nin_edge_runtime import DEFAULT_MODEL, Classifier
from nin_edge_runtime.golden import golden_image

ROUNDS: Final = 40
CALLS: Final = 20
PEAK_ROUNDS: Final = 5
FRAME: Final = (1080, 1920)
"""(height, width) of a camera's frame in pixels."""

PYTHON: Final = """
import sys
from nin_edge_runtime import Classifier

prediction = Classifier(sys.argv[1], provider="cpu", threads=1)(sys.argv[2])
print(f"{prediction.label} {prediction.score:.1%}")
"""


def main() -> None:
    """Measure and write."""
    options = parser(__doc__).parse_args()
    if (reason := _c.missing()) is not None:
        raise SystemExit(f"benchmarks.c_speed: {reason}")
    program = _c.build() / "classify_jpeg"
    if not program.exists():
        raise SystemExit("benchmarks.c_speed: libjpeg-turbo is not installed (libjpeg-dev)")
    in_c = (program, DEFAULT_MODEL, PHOTO)
    in_python = (sys.executable, "-c", PYTHON, DEFAULT_MODEL, PHOTO)
    side = Classifier(provider="cpu").info.preprocessing.size
    starts = {"python": timed(partial(run, *in_python)), "c": timed(partial(run, *in_c))}
    peaks = {"python": partial(peak, *in_python), "c": partial(peak, *in_c)}
    rows = [
        row("a process that labels one photo", "ms", 1e3, starts, ROUNDS),
        row("its peak memory", "MB", 1e-6, peaks, PEAK_ROUNDS),
        measured_calls(golden_image(0, side, side)),
        measured_calls(golden_image(1, *FRAME)),
    ]
    answer(
        "c_speed",
        rows,
        rounds=f"{ROUNDS} rounds, of {CALLS} calls for a call, {PEAK_ROUNDS} for memory",
        packages=("onnxruntime", "numpy", "pillow"),
        output=options.output,
    )


def measured_calls(image: NDArray[np.uint8]) -> Row:
    """The time of a call with an image, in this process and in one of C."""
    height, width = image.shape[:2]
    classify = Classifier(DEFAULT_MODEL, provider="cpu", threads=1)
    command = [_c.BUILT / "probe", "time", DEFAULT_MODEL, str(CALLS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def in_c() -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(_c.sent(image))
            process.stdin.flush()
            return float(process.stdout.readline())

        candidates = {"python": timed(partial(classify, image), CALLS), "c": in_c}
        return row(f"a call with {width} x {height} pixels", "ms", 1e3, candidates, ROUNDS)


def row(
    measure: str,
    unit: str,
    factor: float,
    candidates: Mapping[str, Callable[[], float]],
    count: int,
) -> Row:
    """One line: both medians, and the ratio of C to Python."""
    found = compare(candidates, count)
    return {
        "measure": measure,
        "unit": unit,
        "c": factor * found["c"].median,
        "python": factor * found["python"].median,
        "ratio": found["c"].ratio,
    }


if __name__ == "__main__":
    main()

"""The C library: its build, and what it gives for images, to compare with the Python runtime."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks._result import ROOT

SOURCE: Final = ROOT / "runtime" / "c"
"""The C library."""

BUILT: Final = ROOT / "build" / "c"
"""Where it is built, with its tests and the examples."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the library gave for some images."""

    probabilities: NDArray[np.float32]
    """(N, K)."""
    maps: NDArray[np.float32]
    """(N, h * w), the class map of each image's label."""
    indices: NDArray[np.int32]
    """(N,), the place of each image's label among the labels."""
    verified: float
    """Largest difference over the golden samples."""


def missing() -> str | None:
    """Why the library cannot be built here; None where it can."""
    if shutil.which("cmake") is None:
        return "CMake is not installed"
    if all(shutil.which(name) is None for name in ("cc", "gcc", "clang")):
        return "there is no C compiler"
    return None


@cache
def build() -> Path:
    """Build the library, its tests and the examples with warnings as errors.

    Returns:
        The folder of the programs.

    Raises:
        RuntimeError: a step failed; the message has its output.
    """
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = (f"-DPython3_EXECUTABLE={sys.executable}", "-DNIN_EDGE_WERROR=ON")
        _run("cmake", "-S", SOURCE, "-B", BUILT, *settings)
        _run("cmake", "--build", BUILT)
    return BUILT


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout}")


def sent(image: NDArray[np.uint8]) -> bytes:
    """An image, uint8 (H, W, 3), as `probe` reads it."""
    return np.array(image.shape[1::-1], np.int32).tobytes() + image.tobytes()


def classify(
    model: Path | str, images: Sequence[NDArray[np.uint8]], probe: Sequence[str] = ()
) -> Outputs:
    """Classify images in one process of `runtime/c/test/probe.c`.

    Args:
        model: an `.onnx` file.
        images: RGB, uint8 (H, W, 3).
        probe: the command of that program; built for this machine if empty.
    """
    done = subprocess.run(
        [*(probe or (str(build() / "probe"),)), "classify", str(model)],
        input=b"".join(map(sent, images)),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    header = np.dtype([("shape", np.int32, 3), ("verified", np.float64)])
    first = np.frombuffer(done.stdout, header, 1)[0]
    classes, height, width = first["shape"]
    row = np.dtype(
        [
            ("index", np.int32),
            ("probabilities", np.float32, classes),
            ("maps", np.float32, height * width),
        ]
    )
    rows = np.frombuffer(done.stdout, row, len(images), header.itemsize)
    return Outputs(rows["probabilities"], rows["maps"], rows["index"], float(first["verified"]))

"""Do Python and C give the same predictions here and on an emulated Cortex-A72 (Raspberry Pi 4)?

    python -m benchmarks.arm_images DATA [WEIGHTS] [--root DIR]

Classifies 100 test images of DATA, the archive that the weights were trained on, with WEIGHTS'
files, one image a call. Beside what `benchmarks.arm` needs, it takes CMake, a C
compiler, and Debian's `gcc-aarch64-linux-gnu` and `libc6-dev-arm64-cross`. It takes some
minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks import _arm, _arm_guest, _c
from benchmarks._arm_guest import predictions
from benchmarks._result import Row, answer, parser
from benchmarks.arm import WEIGHTS, described
from benchmarks.javascript import exported, test_images
from nin_edge.weights import find_weights

CORE: Final = "cortex-a72"

COMPILER: Final = "aarch64-linux-gnu-gcc"

Images: TypeAlias = Sequence[NDArray[np.uint8]]

Outputs: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Probabilities (N, K), and the labels' class maps (N, h * w)."""


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("weights", nargs="?", type=Path, default=Path(WEIGHTS))
    arguments.add_argument("--root", type=Path, default=_arm.CACHE, metavar="DIR")
    options = arguments.parse_args()
    reason = _arm.missing("arm64", options.root) or _c.missing()
    if reason is None and shutil.which(COMPILER) is None:
        reason = f"there is no {COMPILER} (Debian: gcc-aarch64-linux-gnu)"
    if reason is not None:
        raise SystemExit(f"benchmarks.arm_images: {reason}")
    images = test_images(options.data)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _arm.guest("arm64", options.root) as guest,
    ):
        probe = cross_compiled(guest)
        notes = [
            f"QEMU {_arm.emulator_version()}, user emulation.",
            described(guest, guest.versions(CORE)),
        ]
        for precision, model in exported(Path(folder), find_weights(options.weights)):
            rows += compared(precision, model, images, guest, probe)
    answer(
        "arm_images",
        rows,
        rounds=f"one call for each image; the files of `{options.weights.stem}`",
        packages=("onnxruntime", "pillow", "numpy"),
        notes=notes,
        output=options.output,
    )


def compared(
    precision: str, model: Path, images: Images, guest: _arm.Guest, probe: str
) -> list[Row]:
    """A row for each library and processor, against Python on this machine."""
    file = guest.add(model)
    program = guest.command(CORE, probe)
    ways: Mapping[tuple[str, str], Callable[[], Outputs]] = {
        ("Python", "x86-64"): lambda: predictions(model, images),
        ("C", "x86-64"): lambda: c_library(_c.classify(model, images)),
        ("Python", "Cortex-A72"): lambda: emulated_python(guest, file, images),
        ("C", "Cortex-A72"): lambda: c_library(_c.classify(file, images, program)),
    }
    rows: list[Row] = []
    expected: Outputs | None = None
    for (library, processor), classify in ways.items():
        probabilities, maps = found = classify()
        expected = expected or found
        rows.append(
            {
                "precision": precision,
                "library": library,
                "processor": processor,
                "count": len(images),
                "equal_labels": int((probabilities.argmax(1) == expected[0].argmax(1)).sum()),
                "max_difference": float(np.abs(probabilities - expected[0]).max()),
                "max_map_difference": float(np.abs(maps - expected[1]).max()),
            }
        )
        print(rows[-1], flush=True)
    return rows[1:]  # the first is what the others are compared with


def c_library(found: _c.Outputs) -> Outputs:
    """The C library's part of the comparison."""
    return found.probabilities, found.maps


def emulated_python(guest: _arm.Guest, model: str, images: Images) -> Outputs:
    """The Python runtime on the emulated core."""
    sent, received = guest.folder / "images.npy", guest.folder / "outputs.npz"
    np.save(sent, np.stack(images))
    script = guest.add(Path(_arm_guest.__file__))
    done = guest.python(CORE, script, model, guest.path(sent), guest.path(received))
    if done.returncode:
        raise RuntimeError(done.stderr)
    with np.load(received) as outputs:
        return outputs["probabilities"], outputs["maps"]


def cross_compiled(guest: _arm.Guest) -> str:
    """Compile `probe` for a guest with the ONNX Runtime of its wheel; gives its name there."""
    (library,) = (guest.root / "opt/wheels/onnxruntime/capi").glob("libonnxruntime.so.*")
    # Programs load it by this name.
    shutil.copy(library, guest.folder / "libonnxruntime.so.1")
    program = guest.folder / "probe"
    include = _c.SOURCE / "third_party/onnxruntime"
    sources = [_c.SOURCE / "nin_edge.c", _c.SOURCE / "test/probe.c"]
    linked = [guest.folder / "libonnxruntime.so.1", "-lm", "-Wl,--allow-shlib-undefined"]
    command = [COMPILER, "-std=c11", "-O2", "-isystem", include, *sources, "-o", program, *linked]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return guest.path(program)


if __name__ == "__main__":
    main()

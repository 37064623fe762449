"""Do model files give on Arm what they gave on the exporting machine?

    python -m benchmarks.arm [WEIGHTS] [--root DIR]

QEMU emulates each core, with Debian 13 and this environment's versions from PyPI (64 bits) or with
Debian's own packages (32 bits). There, `nin-edge verify` replays the golden samples of WEIGHTS'
files, and `nin-edge run` labels `examples/cat.jpg` with the bundled model. ONNX Runtime 1.21.0,
which ends with an illegal instruction on some cores, labels it as well.

It needs Debian's packages `qemu-user-static` and `mmdebstrap`, and root or user namespaces. The
root file systems (0.5 GB) are kept in DIR, `~/.cache/nin-edge/arm` by default. Emulation says
nothing about speed: this takes some minutes.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import _arm
from benchmarks._result import ROOT, Row, answer, parser
from benchmarks.javascript import exported
from nin_edge.weights import find_weights
from nin_edge_runtime.doctor.fixes import ILLEGAL_RELEASE
from nin_edge_runtime.verify import TOLERANCES

WEIGHTS: Final = "nin-cifar10-quarter"

BROKEN_CORES: Final = ("cortex-a53", "cortex-a72", "cortex-a76")
"""Cores that ONNX Runtime 1.21.0 is tried on: two without dot products, one with them."""


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("weights", nargs="?", type=Path, default=Path(WEIGHTS))
    arguments.add_argument("--root", type=Path, default=_arm.CACHE, metavar="DIR")
    options = arguments.parse_args()
    for architecture in ("arm64", "armhf"):
        if (reason := _arm.missing(architecture, options.root)) is not None:
            raise SystemExit(f"benchmarks.arm: {reason}")
    rows: list[Row] = []
    notes = [f"QEMU {_arm.emulator_version()}, user emulation."]
    with tempfile.TemporaryDirectory() as folder:
        models = dict(exported(Path(folder), find_weights(options.weights)))
        with _arm.guest("arm64", options.root) as guest:
            versions = guest.versions("max")
            notes.append(described(guest, versions))
            rows += [measured(guest, core, models, versions) for core in _arm.emulated_cores()]
            broken = _arm.add_wheels(guest.folder / "broken", f"onnxruntime=={ILLEGAL_RELEASE}")
            versions = {**versions, "ONNX Runtime": ILLEGAL_RELEASE}
            rows += [measured(guest, core, {}, versions, [broken]) for core in BROKEN_CORES]
        with _arm.guest("armhf", options.root) as guest:
            versions = guest.versions(_arm.CORE_32)
            notes.append(described(guest, versions))
            rows.append(measured(guest, _arm.CORE_32, models, versions))
    answer(
        "arm",
        rows,
        rounds=f"the golden samples of the files of `{options.weights.stem}`",
        packages=("onnxruntime", "pillow", "numpy"),
        notes=notes,
        output=options.output,
    )


def described(guest: _arm.Guest, versions: Mapping[str, str]) -> str:
    """A guest's versions, as a sentence."""
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{guest.architecture}: {named}."


def measured(
    guest: _arm.Guest,
    core: str,
    models: Mapping[str, Path],
    versions: Mapping[str, str],
    packages: Sequence[Path] = (),
) -> Row:
    """A core's row.

    Args:
        guest: where it runs.
        core: the processor, by QEMU's name.
        models: files by precision, to be verified.
        versions: of the packages that run.
        packages: folders that replace the guest's packages.
    """
    differences: dict[str, float | None] = {
        f"{precision}_difference": None for precision in TOLERANCES
    }
    failed: list[str] = []
    for precision, model in models.items():
        done = guest.python(core, "-m", "nin_edge", "verify", guest.add(model), packages=packages)
        failed += failure(done)
        if found := re.search(r"golden samples within (\S+) ", done.stdout):
            differences[f"{precision}_difference"] = float(found[1])
    photo = guest.add(ROOT / "examples/cat.jpg")
    done = guest.python(core, "-m", "nin_edge", "run", photo, "--json", packages=packages)
    failed += failure(done)
    label = json.loads(done.stdout) if done.stdout else {"label": None, "score": None}
    row: Row = {
        "core": core,
        "architecture": guest.architecture,
        "onnxruntime": versions["ONNX Runtime"],
        **differences,
        "label": label["label"],
        "score": label["score"],
        "failure": "; ".join(failed) or None,
    }
    print(row, flush=True)
    return row


def failure(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Why a process failed, in a few words; empty if it did not."""
    if done.returncode < 0:
        return [str(signal.strsignal(-done.returncode)).lower()]
    return [f"exit code {done.returncode}: {done.stderr.strip()[-200:]}"] if done.returncode else []


if __name__ == "__main__":
    main()

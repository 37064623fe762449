"""Which of the processor's instructions matter to ONNX Runtime's kernels, above all int8's."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")

# The kernel's names of them, by architecture.
_FEATURES: Final = {
    "x86": {
        "AVX2": "avx2",
        "AVX-512 VNNI": "avx512_vnni",
        "AVX-VNNI": "avx_vnni",
        "AMX int8": "amx_int8",
    },
    "arm": {"dot product": "asimddp", "i8mm": "i8mm"},
}
_DOT_PRODUCTS: Final = frozenset({"AVX-512 VNNI", "AVX-VNNI", "AMX int8", "dot product", "i8mm"})


@dataclass(frozen=True)
class CpuFeatures:
    """What the processor is, and what it has."""

    architecture: str
    """As `uname -m` gives it."""
    model: str | None
    """The processor's name; None where the system does not tell."""
    features: Mapping[str, bool] | None
    """The instruction sets that matter here, and whether it has them; None if that is unknown."""
    int8: str
    """What they mean for int8 models, in one line."""


def cpu_features(cpuinfo: Path = _CPUINFO, architecture: str | None = None) -> CpuFeatures:
    """Look the processor up in Linux's description of it.

    Args:
        cpuinfo: the description.
        architecture: as `uname -m` gives it; this machine's if None.
    """
    architecture = architecture or platform.machine()
    family = "x86" if architecture in ("x86_64", "i686", "AMD64") else "arm"
    try:
        text = cpuinfo.read_text("utf-8", "replace")
    except OSError:
        text = ""
    # Every core has its own; what one of them lacks, a thread that moves cannot rely on.
    flags = [set(line.split()) for line in re.findall(r"(?m)^(?:flags|Features)\s*:(.*)$", text)]
    name = re.search(r"(?m)^(?:model name|Model)\s*:\s*(.+)$", text)
    model = name[1].strip() if name else None
    if not flags:
        return CpuFeatures(
            architecture, model, None, "unknown here; nin-edge bench compares int8 with fp32"
        )
    have = set.intersection(*flags)
    features = {feature: flag in have for feature, flag in _FEATURES[family].items()}
    return CpuFeatures(architecture, model, features, _meaning(features))


def _meaning(features: Mapping[str, bool]) -> str:
    if any(features[name] for name in _DOT_PRODUCTS & features.keys()):
        return "has dot-product instructions, which int8 models gain from"
    if features.get("AVX2", True):
        return "no dot-product instructions: int8 gains less; nin-edge bench compares it with fp32"
    return "no AVX2: int8 may gain nothing; nin-edge bench compares it with fp32"


# Instruction sets that ONNX Runtime picks its kernels by: results differ in the last digits between
# them.
_KERNEL_FLAGS: Final = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"),
    *("asimd", "asimddp", "i8mm"),
)


def instruction_sets() -> str:
    """This machine's architecture and those of its instruction sets that decide ONNX kernels."""
    try:
        lines = _CPUINFO.read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    flags = (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Feat")))
    present = next(flags, [])
    return " ".join([platform.machine(), *(flag for flag in _KERNEL_FLAGS if flag in present)])

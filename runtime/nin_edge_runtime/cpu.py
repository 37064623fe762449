"""The processor: its name, and the instruction sets by which ONNX Runtime picks its kernels.

The only reader of Linux's /proc/cpuinfo.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")

# Instruction sets that matter for int8, by architecture: the usual name and the kernel's flag.
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

# Flags that change the results of ONNX Runtime's kernels in the last digits.
_KERNEL_FLAGS: Final = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"),
    *("asimd", "asimddp", "i8mm"),
)


@dataclass(frozen=True)
class CpuFeatures:
    """The processor and its instruction sets for int8."""

    architecture: str
    """As `uname -m` gives it."""
    model: str | None
    """The processor's name; None if unavailable."""
    features: Mapping[str, bool] | None
    """By instruction set, whether every core has it; None if that is unknown."""
    int8: str
    """The consequence for int8 models, in one line."""


def cpu_features(cpuinfo: Path = _CPUINFO, architecture: str | None = None) -> CpuFeatures:
    """Describe the processor.

    Args:
        cpuinfo: Linux's description of it.
        architecture: as `uname -m` gives it; this machine's if None.
    """
    architecture = architecture or platform.machine()
    family = "x86" if architecture in ("x86_64", "i686", "AMD64") else "arm"
    name = re.search(r"(?m)^(?:model name|Model)\s*:\s*(.+)$", _read(cpuinfo))
    model = name[1].strip() if name else None
    flags = cpu_flags(cpuinfo)
    if not flags:
        return CpuFeatures(
            architecture, model, None, "unknown here; nin-edge bench compares int8 with fp32"
        )
    features = {feature: flag in flags for feature, flag in _FEATURES[family].items()}
    return CpuFeatures(architecture, model, features, _int8_advice(features))


def instruction_sets(cpuinfo: Path = _CPUINFO) -> str:
    """The architecture and the instruction sets that decide how a network is computed.

    Args:
        cpuinfo: Linux's description of the processor.

    Returns:
        Words, such as `x86_64 avx2 avx512f`; only the architecture if the rest is unknown.
    """
    cores = _flags_by_core(_read(cpuinfo))
    first = cores[0] if cores else set()
    return " ".join([platform.machine(), *(flag for flag in _KERNEL_FLAGS if flag in first)])


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The kernel's flags that every core has, such as `avx512_bf16`; empty where unknown.

    Args:
        cpuinfo: Linux's description of the processor.
    """
    cores = _flags_by_core(_read(cpuinfo))
    # Threads move between cores, so one core without an instruction set rules it out.
    return frozenset(set.intersection(*cores)) if cores else frozenset()


def processor_name() -> str:
    """The name of this machine's processor, or of the board that it sits on."""
    return cpu_features().model or platform.processor() or platform.machine()


def _read(cpuinfo: Path) -> str:
    try:
        return cpuinfo.read_text("utf-8", "replace")
    except OSError:  # not on Linux
        return ""


def _flags_by_core(cpuinfo: str) -> list[set[str]]:
    """Return each core's flags (x86 calls them `flags`, Arm `Features`)."""
    return [set(line.split()) for line in re.findall(r"(?m)^(?:flags|Features)\s*:(.*)$", cpuinfo)]


def _int8_advice(features: Mapping[str, bool]) -> str:
    if any(features[name] for name in _DOT_PRODUCTS & features.keys()):
        return "has dot-product instructions, which int8 models gain from"
    if features.get("AVX2", True):
        return "no dot-product instructions: int8 gains less; nin-edge bench compares it with fp32"
    return "no AVX2: int8 may gain nothing; nin-edge bench compares it with fp32"

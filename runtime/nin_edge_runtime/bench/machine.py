"""The machine that figures were measured on."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import numpy as np

import nin_edge_runtime
from nin_edge_runtime.cpu import processor_name
from nin_edge_runtime.threads import allowed_cpus


@dataclass(frozen=True)
class Machine:
    """A machine, and the versions that figures depend on."""

    processor: str
    """Name of the processor, or of the board."""
    cpus: int
    """CPUs that this process may use."""
    system: str
    """Operating system and architecture."""
    python: str
    """Version of Python."""
    onnxruntime: str
    """Version of ONNX Runtime."""
    numpy: str
    """Version of NumPy."""
    nin_edge: str
    """Version of nin-edge."""


def this_machine() -> Machine:
    """Describe this machine."""
    import onnxruntime

    return Machine(
        processor=processor_name(),
        cpus=allowed_cpus(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        numpy=np.__version__,
        nin_edge=nin_edge_runtime.__version__,
    )

"""Which execution provider runs the network, on how many threads; is it really active?

ONNX Runtime falls back to the CPU without an exception when CUDA cannot start, even if CUDA is the
only provider asked for. So what a session says after its creation counts, not what the package
lists as available.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from nin_edge_runtime.errors import (
    MissingDependencyError,
    ModelFileError,
    NinEdgeError,
    ProviderError,
)

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""ONNX Runtime's names of the providers that a caller can ask for; `auto` chooses between them."""

_logger = logging.getLogger(__name__)


def create_session(
    model: bytes, name: str, *, provider: str = "auto", threads: int | None = None
) -> tuple[onnxruntime.InferenceSession, str]:
    """Start a session with a provider that is really active.

    Args:
        model: the file's bytes.
        name: what to call the model in errors.
        provider: `auto` (CUDA where it starts, else the CPU), `cpu` or `cuda`. The environment
            variable
            `NIN_EDGE_PROVIDER` takes the place of `auto`.
        threads: threads of one inference on the CPU; `usable_threads()` if None.

    Returns:
        The session, and the active provider: `cpu` or `cuda`.

    Raises:
        ProviderError: no such provider, or `cuda` was asked for and is not active.
        MissingDependencyError: ONNX Runtime is not installed.
        ModelFileError: ONNX Runtime cannot load the model.
    """
    named = os.environ.get("NIN_EDGE_PROVIDER") if provider == "auto" else None
    wanted = named or provider
    if wanted not in ("auto", *PROVIDERS):
        what = "NIN_EDGE_PROVIDER is" if named else "provider"
        raise ProviderError(f"{what} {wanted!r}: expected auto, {' or '.join(PROVIDERS)}")
    onnxruntime = _onnxruntime()
    built_with_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if wanted == "cuda" and not built_with_cuda:
        raise ProviderError(
            f"provider cuda: the installed ONNX Runtime {onnxruntime.__version__} has no CUDA; "
            "expected onnxruntime-gpu in place of onnxruntime"
        )
    chosen = [PROVIDERS["cuda"]] if built_with_cuda and wanted != "cpu" else []
    options = _session_options(threads)
    try:
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=[*chosen, PROVIDERS["cpu"]],
            # Since 1.23 it quantises convolutions that int8 export kept in float, and coarsely.
            disabled_optimizers=["WeightBiasQuantization"],
        )
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ModelFileError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it "
            f"({' '.join(str(error).split())})"
        ) from error
    active = "cuda" if PROVIDERS["cuda"] in session.get_providers() else "cpu"
    if wanted == "cuda" and active != "cuda":
        raise ProviderError(
            "provider cuda: ONNX Runtime could not start it; "
            "expected an NVIDIA GPU and CUDA's libraries"
        )
    if chosen and active == "cpu":
        _logger.warning(
            "CUDA could not be started, running on the CPU; provider='cpu' says that this is meant"
        )
    return session, active


def _onnxruntime() -> ModuleType:
    """The package, or an error that says why there is none."""
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # caught by the package itself
            raise KeyboardInterrupt from error
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise MissingDependencyError(
                "ONNX Runtime is not installed: pip install onnxruntime "
                "(or onnxruntime-gpu, for CUDA)"
            ) from error
        raise MissingDependencyError(f"ONNX Runtime cannot be loaded: {error}") from error
    module: ModuleType = onnxruntime
    return module


def runs_half_slowly(provider: str) -> bool:
    """Whether ONNX Runtime takes about twice as long for fp16 as for fp32 here.

    On a CPU, releases before 1.23 put a cast on either side of every operator and keep them all.
    """
    import onnxruntime

    found = re.match(r"(\d+)\.(\d+)", onnxruntime.__version__)
    release = tuple(map(int, found.groups())) if found else (0, 0)
    return provider == "cpu" and release < (1, 23)


def usable_threads() -> int:
    """Threads that help: `NIN_EDGE_THREADS`, or the CPUs that affinity and cgroup quota leave.

    Raises:
        NinEdgeError: `NIN_EDGE_THREADS` is not a whole number above 0.
    """
    if asked := os.environ.get("NIN_EDGE_THREADS"):
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 4 and 0 < int(asked) <= 1024):
            raise NinEdgeError(f"NIN_EDGE_THREADS is {asked!r}: expected a whole number, 1 to 1024")
        return int(asked)
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cpus, int(_cgroup_quota() + 0.5)))


def _cgroup_quota() -> float:
    """CPUs' worth of time this container may use; more than any machine has, if not limited."""
    unlimited = 1e6
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()  # version 2
        return unlimited if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")  # version 1
        quota_us = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
        return (
            quota_us / int((folder / "cpu.cfs_period_us").read_text("ascii"))
            if quota_us > 0
            else unlimited
        )
    except (OSError, ValueError):
        return unlimited


def _session_options(threads: int | None) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_threads() if threads is None else threads
    options.inter_op_num_threads = 1  # the network is a chain: nothing to run side by side
    options.log_severity_level = 3  # errors alone: warnings about the graph are for who exported it
    return options

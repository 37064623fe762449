"""Which execution provider runs the network; is it really active?

ONNX Runtime falls back to the CPU without an exception when CUDA cannot start, even if CUDA is the
only provider asked for. So what a session says after its creation counts, not what the package
lists as available.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nin_edge_runtime.errors import MissingDependencyError, ModelFileError, ProviderError
from nin_edge_runtime.threads import usable_threads

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""ONNX Runtime's names of the providers that a caller can ask for; `auto` chooses between them."""

_WARNING, _FATAL = 2, 4  # ONNX Runtime's severities; the first is its default

_logger = logging.getLogger(__name__)


def create_session(
    model: bytes,
    name: str,
    *,
    provider: str = "auto",
    threads: int | None = None,
    spin: bool = False,
    arena: bool = True,
    tf32: bool = False,
) -> tuple[onnxruntime.InferenceSession, str]:
    """Start a session with a provider that is really active.

    ONNX Runtime's own lines reach stderr only where this package's log is on for INFO.

    Args:
        model: the file's bytes.
        name: what to call the model in errors.
        provider: `auto` (CUDA where it starts, else the CPU), `cpu` or `cuda`. The environment
            variable `NIN_EDGE_PROVIDER` takes the place of `auto`.
        threads: threads of one inference on the CPU; `usable_threads()` if None.
        spin: let threads that have nothing to do wait busily, for some milliseconds after an
            inference too.
        arena: keep the memory of the largest inference for the next ones.
        tf32: let CUDA round the inputs of fp32 convolutions to 10 bits, which is faster.

    Returns:
        The session, and the active provider: `cpu` or `cuda`.

    Raises:
        ProviderError: no such provider, or `cuda` was asked for and is not active.
        MissingDependencyError: ONNX Runtime is not installed, or cannot be loaded.
        ModelFileError: ONNX Runtime cannot load the model.
    """
    named = os.environ.get("NIN_EDGE_PROVIDER") if provider == "auto" else None
    wanted = named or provider
    if wanted not in ("auto", *PROVIDERS):
        what = "NIN_EDGE_PROVIDER is" if named else "provider"
        raise ProviderError(f"{what} {wanted!r}: expected auto, {' or '.join(PROVIDERS)}")
    onnxruntime = load_onnxruntime()
    has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if wanted == "cuda" and not has_cuda:
        raise ProviderError(
            f"provider cuda: the installed ONNX Runtime {onnxruntime.__version__} has no CUDA; "
            "expected onnxruntime-gpu in place of onnxruntime"
        )
    options = _session_options(threads, spin=spin, arena=arena)
    session = failure = None
    if has_cuda and wanted != "cpu":
        try:
            session = _start_with_cuda(onnxruntime, model, options, tf32=tf32)
        except Exception as error:  # a driver that is too old, no memory left; or the model
            failure = error
            _logger.info("CUDA could not be started", exc_info=True)
        if session is not None and PROVIDERS["cuda"] in session.get_providers():
            return session, "cuda"
    if session is None:
        try:
            session = _start(onnxruntime, model, options, [PROVIDERS["cpu"]])
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise ModelFileError(
                f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it "
                f"({' '.join(str(error).split())})"
            ) from error
    if wanted == "cuda":
        why = f" ({' '.join(str(failure).split())})" if failure else ""
        raise ProviderError(
            f"provider cuda: ONNX Runtime could not start it{why}; expected an NVIDIA GPU and "
            "CUDA's libraries; nin-edge doctor says what is missing"
        ) from failure
    if has_cuda and wanted == "auto":
        _logger.warning(
            "CUDA could not be started, running on the CPU; provider='cpu' says that this is meant"
        )
    return session, "cpu"


def cuda_is_required(provider: str) -> bool:
    """Whether CUDA was asked for by name, in the call or by `NIN_EDGE_PROVIDER`."""
    return "cuda" in (provider, provider == "auto" and os.environ.get("NIN_EDGE_PROVIDER"))


def _start_with_cuda(
    onnxruntime: ModuleType, model: bytes, options: onnxruntime.SessionOptions, *, tf32: bool
) -> onnxruntime.InferenceSession:
    """A session that was asked for CUDA; ONNX Runtime may have left it out."""
    settings = {
        # The default, EXHAUSTIVE, searches again at each new batch size, and that call is slow.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if release(onnxruntime) >= (1, 18):  # older ones do not know it and refuse to start
        settings["use_tf32"] = str(int(tf32))
    quiet, active = not _logger.isEnabledFor(logging.INFO), False
    if quiet:  # CUDA's lines come from the logger of the process, whatever the session says
        onnxruntime.set_default_logger_severity(_FATAL)
    try:
        if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
            with _prints_logged(onnxruntime):
                onnxruntime.preload_dlls()
        providers = [(PROVIDERS["cuda"], settings), PROVIDERS["cpu"]]
        session = _start(onnxruntime, model, options, providers)
        # Lines follow at each new batch size: of plans for fp16 that cuDNN then does without.
        active = PROVIDERS["cuda"] in session.get_providers()
        return session
    finally:
        if quiet and not active:
            onnxruntime.set_default_logger_severity(_WARNING)


def _start(
    onnxruntime: ModuleType,
    model: bytes,
    options: onnxruntime.SessionOptions,
    providers: list[Any],
) -> onnxruntime.InferenceSession:
    from onnxruntime.capi import onnxruntime_inference_collection

    with _prints_logged(onnxruntime_inference_collection):
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=providers,
            # Since 1.23 it quantises convolutions that int8 export kept in float, and coarsely.
            disabled_optimizers=["WeightBiasQuantization"],
            enable_fallback=False,  # would go on with the CPU and print that; new ones know it
        )
    session.disable_fallback()  # a provider that fails later is an error, not another provider
    return session


@contextmanager
def _prints_logged(module: ModuleType) -> Iterator[None]:
    """Send what a module of ONNX Runtime prints to the log: standard output is the caller's."""
    # Not `redirect_stdout`: that would take the output of all other threads as well.
    names = vars(module)
    names["print"] = _logger.info
    try:
        yield
    finally:
        names.pop("print", None)


def load_onnxruntime() -> ModuleType:
    """The package, or an error that says why there is none."""
    try:
        import onnxruntime
    except Exception as error:  # one whose files are mixed up raises anything
        if isinstance(error.__context__, KeyboardInterrupt):  # caught by the package itself
            raise KeyboardInterrupt from error
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise MissingDependencyError(
                "ONNX Runtime is not installed: pip install onnxruntime "
                "(or onnxruntime-gpu, for CUDA)"
            ) from error
        reason = " ".join(str(error).split()) or "its native library does not start"
        raise MissingDependencyError(f"ONNX Runtime cannot be loaded: {reason}") from error
    module: ModuleType = onnxruntime
    if not hasattr(module, "InferenceSession"):  # a folder that another package left behind
        raise MissingDependencyError(
            "ONNX Runtime cannot be loaded: files are missing, as after removing one of "
            "onnxruntime and onnxruntime-gpu while both were installed; uninstall both and "
            "install one again"
        )
    if release(module) < (1, 19) and np.lib.NumpyVersion(np.__version__) >= "2.0.0b1":
        raise MissingDependencyError(  # it would crash at its first inference
            f"ONNX Runtime {module.__version__} does not work with NumPy {np.__version__}: "
            'pip install "numpy<2", or onnxruntime 1.19 or newer'
        )
    return module


def release(onnxruntime: ModuleType) -> tuple[int, int]:
    """Major and minor version, (0, 0) where it cannot be told."""
    found = re.match(r"(\d+)\.(\d+)", onnxruntime.__version__)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def runs_half_slowly(provider: str) -> bool:
    """Whether ONNX Runtime takes about twice as long for fp16 as for fp32 here.

    On a CPU, releases before 1.23 put a cast on either side of every operator and keep them all.
    """
    import onnxruntime

    return provider == "cpu" and release(onnxruntime) < (1, 23)


def _session_options(threads: int | None, *, spin: bool, arena: bool) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_threads() if threads is None else threads
    options.inter_op_num_threads = 1  # the network is a chain: nothing to run side by side
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(spin)))
    # Without the arena, planning its blocks ahead costs memory and time.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    # Not by the first bytes, which can make a second model of the file (graphcheck.py).
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # What fails raises as well, and warnings about the graph are for who exported it.
    verbose = _logger.isEnabledFor(logging.INFO)
    options.log_severity_level = _WARNING if verbose else _FATAL
    return options

"""Execution providers: start an ONNX Runtime session, and check which provider is really active.

ONNX Runtime falls back to the CPU without an exception when CUDA cannot start, even if CUDA is the
only provider requested. So only the created session's own list of providers counts, not the
package's list of available ones.
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
"""Providers that a caller can request, with ONNX Runtime's names; `auto` chooses between them."""

_WARNING, _FATAL = 2, 4  # ONNX Runtime's log severities; its default is the first

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

    ONNX Runtime's native log lines reach stderr only if this package's log is on for INFO.

    Args:
        model: the file's bytes.
        name: the model's name in errors.
        provider: `auto` (CUDA where it starts, else the CPU), `cpu` or `cuda`. The environment
            variable `NIN_EDGE_PROVIDER` replaces `auto`.
        threads: threads of one inference on the CPU, at least 1; `usable_threads()` if None.
        spin: let idle threads wait busily, for some milliseconds after each inference too.
        arena: keep the memory of the largest inference for the next ones.
        tf32: let CUDA round the inputs of fp32 convolutions to 10 bits, which is faster.

    Returns:
        The session, and the active provider: `cpu` or `cuda`.

    Raises:
        ProviderError: the provider is unknown, or `cuda` was requested and is not active.
        MissingDependencyError: ONNX Runtime is not installed, or cannot be loaded.
        ModelFileError: ONNX Runtime cannot load the model.
    """
    requested = _requested(provider)
    if requested not in ("auto", *PROVIDERS):
        setting = "provider" if requested == provider else "NIN_EDGE_PROVIDER is"
        raise ProviderError(f"{setting} {requested!r}: expected auto, {' or '.join(PROVIDERS)}")
    onnxruntime = load_onnxruntime()
    has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if requested == "cuda" and not has_cuda:
        raise ProviderError(
            f"provider cuda: the installed ONNX Runtime {onnxruntime.__version__} has no CUDA; "
            "expected onnxruntime-gpu in place of onnxruntime"
        )
    options = _session_options(threads, spin=spin, arena=arena)
    session = cuda_error = None
    if has_cuda and requested != "cpu":
        try:
            session = _start_with_cuda(onnxruntime, model, options, tf32=tf32)
        except Exception as error:  # an old driver, no memory left; or the model itself
            cuda_error = error
            _logger.info("CUDA could not be started", exc_info=True)
        if session is not None and PROVIDERS["cuda"] in session.get_providers():
            return session, "cuda"
    if session is None:
        session = _start_on_cpu(onnxruntime, model, name, options)
    if requested == "cuda":
        reason = f" ({_one_line(cuda_error)})" if cuda_error else ""
        raise ProviderError(
            f"provider cuda: ONNX Runtime could not start it{reason}; expected an NVIDIA GPU and "
            "CUDA's libraries; nin-edge doctor says what is missing"
        ) from cuda_error
    if has_cuda and requested == "auto":
        _logger.warning(
            "CUDA could not be started, running on the CPU; provider='cpu' silences this warning"
        )
    return session, "cpu"


def cuda_is_required(provider: str) -> bool:
    """Whether CUDA was requested by name, in the call or by `NIN_EDGE_PROVIDER`."""
    return _requested(provider) == "cuda"


def _requested(provider: str) -> str:
    """Return the requested provider: `NIN_EDGE_PROVIDER` replaces `auto`."""
    return (provider == "auto" and os.environ.get("NIN_EDGE_PROVIDER")) or provider


def _start_on_cpu(
    onnxruntime: ModuleType, model: bytes, name: str, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    try:
        return _start(onnxruntime, model, options, [PROVIDERS["cpu"]])
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ModelFileError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it ({_one_line(error)})"
        ) from error


def _start_with_cuda(
    onnxruntime: ModuleType, model: bytes, options: onnxruntime.SessionOptions, *, tf32: bool
) -> onnxruntime.InferenceSession:
    """Start a session that requests CUDA; ONNX Runtime may leave CUDA out."""
    settings = {
        # The default, EXHAUSTIVE, searches again at each new batch size, and that call is slow.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if release(onnxruntime.__version__) >= (1, 18):  # older ones refuse to start with this setting
        settings["use_tf32"] = str(int(tf32))
    quiet, active = not _logger.isEnabledFor(logging.INFO), False
    if quiet:  # CUDA logs to the logger of the process, which ignores the session's settings
        onnxruntime.set_default_logger_severity(_FATAL)
    try:
        if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
            with _prints_logged(onnxruntime):
                onnxruntime.preload_dlls()
        providers = [(PROVIDERS["cuda"], settings), PROVIDERS["cpu"]]
        session = _start(onnxruntime, model, options, providers)
        # An active CUDA stays quiet: it would log, at each new batch size, the fp16 plans of cuDNN
        # that it cannot use.
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
            # Since 1.23 it quantises, coarsely, the convolutions that int8 export kept in float.
            disabled_optimizers=["WeightBiasQuantization"],
            enable_fallback=False,  # else newer releases continue on the CPU and print that
        )
    session.disable_fallback()  # a provider that fails later is an error, not another provider
    return session


@contextmanager
def _prints_logged(module: ModuleType) -> Iterator[None]:
    """Redirect a module's `print` to the log: standard output belongs to the caller."""
    # Not `redirect_stdout`, which redirects the output of all other threads as well.
    names = vars(module)
    names["print"] = _logger.info
    try:
        yield
    finally:
        names.pop("print", None)


def load_onnxruntime() -> ModuleType:
    """Import ONNX Runtime.

    Raises:
        MissingDependencyError: it is not installed, or cannot be loaded; the message says why.
    """
    try:
        import onnxruntime
    except Exception as error:  # a damaged installation raises anything
        if isinstance(error.__context__, KeyboardInterrupt):  # which the package itself caught
            raise KeyboardInterrupt from error
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise MissingDependencyError(
                "ONNX Runtime is not installed: pip install onnxruntime "
                "(or onnxruntime-gpu, for CUDA)"
            ) from error
        reason = _one_line(error) or "its native library does not start"
        raise MissingDependencyError(f"ONNX Runtime cannot be loaded: {reason}") from error
    module: ModuleType = onnxruntime
    if not hasattr(module, "InferenceSession"):  # a folder that another package left behind
        raise MissingDependencyError(
            "ONNX Runtime cannot be loaded: files are missing, as after removing one of "
            "onnxruntime and onnxruntime-gpu while both were installed; uninstall both and "
            "install one again"
        )
    if release(module.__version__) < (1, 19) and np.lib.NumpyVersion(np.__version__) >= "2.0.0b1":
        raise MissingDependencyError(  # it would crash at its first inference
            f"ONNX Runtime {module.__version__} does not work with NumPy {np.__version__}: "
            'pip install "numpy<2", or onnxruntime 1.19 or newer'
        )
    return module


def release(version: str) -> tuple[int, int]:
    """Major and minor number of a version, such as (1, 23); (0, 0) if it has none."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def fp16_is_slow(provider: str) -> bool:
    """Whether ONNX Runtime takes about twice as long for fp16 as for fp32 here.

    On a CPU, releases before 1.23 cast to fp32 and back around every operator.
    """
    import onnxruntime

    return provider == "cpu" and release(onnxruntime.__version__) < (1, 23)


def _session_options(threads: int | None, *, spin: bool, arena: bool) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_threads() if threads is None else threads
    options.inter_op_num_threads = 1  # the network is a chain: no operators can run in parallel
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(spin)))
    # Without the arena, planning its blocks ahead costs memory and time.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    # Else ONNX Runtime guesses the format from the first bytes, which could differ from the ONNX
    # model that model_file/graph_check.py examined.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Failures raise as well, and warnings about the graph concern its exporter.
    verbose = _logger.isEnabledFor(logging.INFO)
    options.log_severity_level = _WARNING if verbose else _FATAL
    return options


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

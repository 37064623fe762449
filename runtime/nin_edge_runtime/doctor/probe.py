"""Tries a provider in a process of its own, and tells why it does not work.

An ONNX Runtime whose files are mixed up can end its process or hang; and its native lines, which
alone say why CUDA does not start, can be read there.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from typing import Any, Final

from nin_edge_runtime.classifier import Classifier
from nin_edge_runtime.errors import GateError, NinEdgeError
from nin_edge_runtime.providers import PROVIDERS, load_onnxruntime, release
from nin_edge_runtime.verify import replay

_logger = logging.getLogger(__name__)

_TIMEOUT: Final = 120  # seconds; a cold start from a slow memory card takes many
_CHILD: Final = (
    "import json, logging, sys; sys.path[:] = sys.argv[2:]; "
    "from nin_edge_runtime.doctor.probe import examine; "
    "logging.getLogger('nin_edge_runtime').setLevel('INFO'); "  # lets native lines through
    "print(json.dumps(examine(sys.argv[1])))"
)


def probe(provider: str) -> dict[str, Any]:
    """`examine` in a process of its own; `error` holds the native reason where there is one."""
    if not sys.executable or getattr(sys, "frozen", False):  # there is no Python to start
        return examine(provider)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, provider, *sys.path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {_TIMEOUT} s"}
    except OSError as error:
        return {"error": f"{sys.executable} cannot be started: {error.strerror}"}
    if done.stderr:
        _logger.info("trying %s printed:\n%s", provider, done.stderr.rstrip())
    if done.returncode < 0:
        return {"error": f"ONNX Runtime ended its process ({_signal(-done.returncode)})"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        return {"error": f"its process failed: {last}"}
    started = provider == "cpu" or "differs" in found
    if "error" in found and not started and (reason := _native_reason(done.stderr)):
        found["error"] = reason
    return found


def examine(provider: str) -> dict[str, Any]:
    """Try a provider in this process, which is `probe`'s child.

    Returns:
        `driver`, whether there is one of NVIDIA's; `version` and `release` of ONNX Runtime, and
        `cuda`, whether it was built with it; then `samples`, `difference` and `tolerance` of the
        replayed golden samples, or `error` in words, with `differs` if the samples are the error.
    """
    found: dict[str, Any] = {"driver": _has_nvidia_driver()}
    try:
        onnxruntime = load_onnxruntime()
        found["version"] = str(onnxruntime.__version__)
        found["release"] = release(onnxruntime)
        found["cuda"] = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
        result = replay(Classifier(provider=provider, threads=1))
    except GateError as error:
        return {**found, "differs": True, "error": str(error)}
    except NinEdgeError as error:
        return {**found, "error": str(error)}
    except Exception as error:  # a broken installation raises anything
        return {**found, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {
        **found,
        "samples": result.count,
        "difference": result.difference,
        "tolerance": result.tolerance,
    }


def _native_reason(stderr: str) -> str | None:
    """Why CUDA did not start, out of ONNX Runtime's own lines."""
    if found := re.search(r"with error: (.+)", stderr):  # of the dynamic linker
        return found[1].strip()
    if found := re.search(r"(CU\w+ failure \d+: [^;\n]+)", stderr):  # of CUDA, cuDNN, cuBLAS
        return found[1].strip()
    lines = re.findall(r":onnxruntime:[^\]]*\] ([^\n\x1b]+)", stderr)
    return lines[-1].strip() if lines else None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _has_nvidia_driver() -> bool:
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True

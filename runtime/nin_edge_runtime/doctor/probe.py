"""Tries a provider in a process of its own, and finds out why it does not work.

A damaged ONNX Runtime can end its process or hang. And only its native log lines, which are read
from the process's stderr, say why CUDA does not start.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import Final

from nin_edge_runtime.classifier import Classifier
from nin_edge_runtime.errors import GateError, NinEdgeError
from nin_edge_runtime.providers import PROVIDERS, load_onnxruntime
from nin_edge_runtime.verify import replay

_logger = logging.getLogger(__name__)

_TIMEOUT: Final = 120  # seconds; a cold start from a slow memory card takes many
_CHILD: Final = (
    "import logging, sys; sys.path[:] = sys.argv[2:]; "
    "from nin_edge_runtime.doctor.probe import examine; "
    "logging.getLogger('nin_edge_runtime').setLevel('INFO'); "  # lets native lines through
    "print(examine(sys.argv[1]).to_json())"
)


@dataclass(frozen=True)
class Probe:
    """The result of trying one provider. Without an `error`, it works."""

    driver: bool = False
    """Whether there is an NVIDIA driver."""
    version: str | None = None
    """ONNX Runtime's version; None if it cannot be loaded."""
    cuda: bool = False
    """Whether ONNX Runtime was built with CUDA."""
    samples: int | None = None
    """Number of golden samples that were replayed; None if it does not work."""
    difference: float | None = None
    """Largest difference of a probability from the model file's own; None if it does not work."""
    tolerance: float | None = None
    """Largest difference that passes; None if it does not work."""
    error: str | None = None
    """Why it does not work, in one line."""
    differs: bool = False
    """Whether the error is that the golden samples differ by more than the tolerance."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Probe:
        """Read `to_json`'s line.

        Raises:
            ValueError: it is another text.
        """
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from error


def probe(provider: str) -> Probe:
    """Run `examine` in a process of its own; the error is the native reason where there is one."""
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
        return Probe(error=f"no answer within {_TIMEOUT} s")
    except OSError as error:
        return Probe(error=f"{sys.executable} cannot be started: {error.strerror}")
    if done.stderr:
        _logger.info("trying %s printed:\n%s", provider, done.stderr.rstrip())
    if done.returncode < 0:
        return Probe(error=f"ONNX Runtime ended its process ({_signal_name(-done.returncode)})")
    try:
        result = Probe.from_json(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        return Probe(error=f"its process failed: {last}")
    if provider == "cuda" and result.error is not None and not result.differs:
        return replace(result, error=_native_reason(done.stderr) or result.error)
    return result


def examine(provider: str) -> Probe:
    """Try a provider in this process, which is `probe`'s child: replay the default model."""
    result = Probe(driver=_has_nvidia_driver())
    try:
        onnxruntime = load_onnxruntime()
        result = replace(
            result,
            version=str(onnxruntime.__version__),
            cuda=PROVIDERS["cuda"] in onnxruntime.get_available_providers(),
        )
        replayed = replay(Classifier(provider=provider, threads=1))
    except GateError as error:
        return replace(result, error=str(error), differs=True)
    except NinEdgeError as error:
        return replace(result, error=str(error))
    except Exception as error:  # a damaged installation raises anything
        return replace(result, error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    return replace(
        result,
        samples=replayed.count,
        difference=replayed.difference,
        tolerance=replayed.tolerance,
    )


def _native_reason(stderr: str) -> str | None:
    """Find the reason why CUDA did not start in ONNX Runtime's native log lines."""
    for pattern in (
        r"with error: (.+)",  # from the dynamic linker
        r"(CU\w+ failure \d+: [^;\n]+)",  # from CUDA, cuDNN, cuBLAS
    ):
        if reason := re.search(pattern, stderr):
            return reason[1].strip()
    lines = re.findall(r":onnxruntime:[^\]]*\] ([^\n\x1b]+)", stderr)
    return lines[-1].strip() if lines else None


def _signal_name(number: int) -> str:
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

"""What is installed here, does it really run, and what to type to mend what does not."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Final

import nin_edge_runtime
from nin_edge_runtime.cpu import CpuFeatures, cpu_features
from nin_edge_runtime.doctor.fixes import (
    GPU_PACKAGE,
    Problem,
    cuda_problems,
    package_problems,
    replacement,
    variable_problems,
)
from nin_edge_runtime.doctor.probe import probe
from nin_edge_runtime.errors import NinEdgeError
from nin_edge_runtime.threads import allowed_cpus, cgroup_quota, thread_budget

_OPENCV: Final = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


@dataclass(frozen=True)
class ProviderState:
    """Whether a provider really runs the default model."""

    name: str
    """`cpu` or `cuda`."""
    included: bool
    """The installed ONNX Runtime was built with it."""
    works: bool
    """A session started with it and computed the golden samples as they were exported."""
    detail: str
    """What was found, in one line."""
    difference: float | None = None
    """Largest difference of a probability from the file's own; None if nothing was computed."""
    tolerance: float | None = None
    """Largest difference that passes; None if nothing was computed."""


@dataclass(frozen=True)
class Threads:
    """The threads of one inference on the CPU, and what their number comes from."""

    usable: int | None
    """At least 1; None where `NIN_EDGE_THREADS` is not a number."""
    source: str
    """What decided."""
    cpus: int
    """Logical CPUs of the machine."""
    allowed: int
    """CPUs that this process may run on (its affinity)."""
    quota: float | None
    """CPUs' worth of time that its cgroup may use; None if not limited."""


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found."""

    versions: Mapping[str, str | None]
    """By name; None for what is not installed."""
    onnxruntime_packages: Mapping[str, str]
    """The packages that provide `onnxruntime`, and their versions: there must be one."""
    providers: tuple[ProviderState, ...]
    """`cpu`, then `cuda`."""
    cpu: CpuFeatures
    """The processor."""
    threads: Threads
    """Threads of one inference."""
    variables: Mapping[str, str]
    """The environment variables of nin-edge that are set."""
    problems: tuple[Problem, ...]
    """What is wrong; empty if nothing is."""

    @property
    def ok(self) -> bool:
        """Whether it can classify on the CPU and nothing is wrong."""
        return not self.problems


def diagnose() -> Diagnosis:
    """Examine this installation. Takes some seconds: each provider is started and tried."""
    packages = _onnxruntime_packages()
    cpu = probe("cpu")
    has_cuda = bool(cpu.get("cuda"))
    cuda = probe("cuda") if has_cuda else {"error": _without_cuda(packages, cpu)}
    versions = {
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "nin-edge": _version("nin-edge"),
        "nin-edge-runtime": nin_edge_runtime.__version__,
        "numpy": _version("numpy"),
        "Pillow": _version("pillow"),
        "ONNX Runtime": cpu.get("version") or next(iter(packages.values()), None),
        "OpenCV": _opencv(),
    }
    variables = {
        name: value for name, value in sorted(os.environ.items()) if name.startswith("NIN_EDGE_")
    }
    threads, bad_threads = _threads()
    problems = [
        *package_problems(packages, cpu, versions),
        *(cuda_problems(packages, cuda, variables) if has_cuda else ()),
        *variable_problems(variables, bad_threads, has_cuda=has_cuda),
    ]
    return Diagnosis(
        versions=versions,
        onnxruntime_packages=packages,
        providers=(
            _state("cpu", cpu, included="version" in cpu),
            _state("cuda", cuda, included=has_cuda),
        ),
        cpu=cpu_features(),
        threads=threads,
        variables=variables,
        problems=tuple(problems),
    )


def _without_cuda(packages: Mapping[str, str], cpu: Mapping[str, Any]) -> str:
    if "version" not in cpu:
        return "not tried: ONNX Runtime cannot be loaded"
    if cpu.get("driver"):
        mend = replacement(packages, GPU_PACKAGE)
        return f"not in the installed ONNX Runtime; there is an NVIDIA driver: {mend}"
    return "not in the installed ONNX Runtime"


def _state(name: str, found: Mapping[str, Any], *, included: bool) -> ProviderState:
    if error := found.get("error"):
        return ProviderState(name, included, False, error)
    difference, tolerance = found["difference"], found["tolerance"]
    return ProviderState(
        name,
        included,
        True,
        f"{found['samples']} golden samples within {difference:.1g} (tolerance {tolerance:g})",
        difference,
        tolerance,
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _opencv() -> str | None:
    version = next(filter(None, map(_version, _OPENCV)), None)
    # A system's package may say nothing of its version.
    return version or ("unknown" if find_spec("cv2") else None)


def _onnxruntime_packages() -> dict[str, str]:
    """Every installed package that puts its files into the folder `onnxruntime`."""
    found: dict[str, str] = {}
    for package in metadata.distributions():
        name = (package.metadata["Name"] or "").lower()
        if re.match(r"onnxruntime|ort[-_]", name) and any(
            str(file) == "onnxruntime/__init__.py" for file in package.files or ()
        ):
            found.setdefault(name, package.version)  # the first on the path is the one in use
    return dict(sorted(found.items()))


def _threads() -> tuple[Threads, str | None]:
    """The threads of one inference, and what is wrong with the variable that sets them."""
    cpus, allowed, quota = os.cpu_count() or 1, allowed_cpus(), cgroup_quota()
    try:
        usable, source = thread_budget()
    except NinEdgeError as error:
        return Threads(None, "NIN_EDGE_THREADS", cpus, allowed, quota), str(error)
    return Threads(usable, source, cpus, allowed, quota), None

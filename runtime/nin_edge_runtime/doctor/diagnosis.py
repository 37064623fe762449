"""Examine an installation: versions, providers, processor, threads, and what is wrong."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Final

import nin_edge_runtime
from nin_edge_runtime.cpu import CpuFeatures, cpu_features
from nin_edge_runtime.doctor.fixes import (
    GPU_PACKAGE,
    Problem,
    cuda_problems,
    package_problems,
    reinstall,
    variable_problems,
)
from nin_edge_runtime.doctor.probe import Probe, probe
from nin_edge_runtime.errors import NinEdgeError
from nin_edge_runtime.threads import allowed_cpus, cgroup_quota, machine_cpus, thread_budget

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
    """Whether the installed ONNX Runtime was built with it."""
    works: bool
    """Whether it started and reproduced the golden samples within the tolerance."""
    detail: str
    """The result or the reason, in one line."""
    difference: float | None = None
    """Largest difference of a probability from the file's own; None if nothing was computed."""
    tolerance: float | None = None
    """Largest difference that passes; None if nothing was computed."""


@dataclass(frozen=True)
class Threads:
    """The threads of one inference on the CPU, and the limits on them."""

    usable: int | None
    """At least 1; None if `NIN_EDGE_THREADS` is not a number."""
    source: str
    """The limit that determined the number."""
    cpus: int
    """Logical CPUs of the machine."""
    allowed: int
    """CPUs that this process may run on (its affinity)."""
    quota: float | None
    """CPU time that its cgroup may use, in CPUs; None if it is not limited."""


@dataclass(frozen=True)
class Diagnosis:
    """The state of an installation."""

    versions: Mapping[str, str | None]
    """By package; None if it is not installed."""
    onnxruntime_packages: Mapping[str, str]
    """Versions of the packages that provide `onnxruntime`, by name: there must be only one."""
    providers: tuple[ProviderState, ...]
    """`cpu`, then `cuda`."""
    cpu: CpuFeatures
    """The processor."""
    threads: Threads
    """Threads of one inference."""
    variables: Mapping[str, str]
    """nin-edge's environment variables that are set, by name."""
    problems: tuple[Problem, ...]
    """Each with the command that fixes it; empty if nothing is wrong."""

    @property
    def ok(self) -> bool:
        """Whether it can classify on the CPU and nothing is wrong."""
        return not self.problems


def diagnose() -> Diagnosis:
    """Examine this installation. Takes some seconds: each provider is started and tried."""
    packages = _onnxruntime_packages()
    cpu = probe("cpu")
    cuda = probe("cuda") if cpu.cuda else Probe(error=_why_no_cuda(packages, cpu))
    versions = {
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "nin-edge": _version("nin-edge"),
        "nin-edge-runtime": nin_edge_runtime.__version__,
        "numpy": _version("numpy"),
        "Pillow": _version("pillow"),
        "ONNX Runtime": cpu.version
        or next(iter(packages.values()), None)
        or _version("onnxruntime"),
        "OpenCV": _opencv_version(),
    }
    variables = {
        name: value for name, value in sorted(os.environ.items()) if name.startswith("NIN_EDGE_")
    }
    threads, bad_threads = _threads()
    problems = [
        *package_problems(packages, cpu, versions),
        *(cuda_problems(packages, cuda, variables) if cpu.cuda else ()),
        *variable_problems(variables, bad_threads, has_cuda=cpu.cuda),
    ]
    return Diagnosis(
        versions=versions,
        onnxruntime_packages=packages,
        providers=(
            _state("cpu", cpu, included=cpu.version is not None),
            _state("cuda", cuda, included=cpu.cuda),
        ),
        cpu=cpu_features(),
        threads=threads,
        variables=variables,
        problems=tuple(problems),
    )


def _why_no_cuda(packages: Mapping[str, str], cpu: Probe) -> str:
    """Say why CUDA was not tried, in one line."""
    if cpu.version is None:
        return "not tried: ONNX Runtime cannot be loaded"
    if cpu.driver:
        fix = reinstall(packages, GPU_PACKAGE)
        return f"not in the installed ONNX Runtime; there is an NVIDIA driver: {fix}"
    return "not in the installed ONNX Runtime"


def _state(name: str, result: Probe, *, included: bool) -> ProviderState:
    works = result.error is None
    detail = result.error or (
        f"{result.samples} golden samples within {result.difference:.1g} "
        f"(tolerance {result.tolerance:g})"
    )
    return ProviderState(name, included, works, detail, result.difference, result.tolerance)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _opencv_version() -> str | None:
    version = next(filter(None, map(_version, _OPENCV)), None)
    # A Linux distribution's own package may have no metadata.
    return version or ("unknown" if find_spec("cv2") else None)


def _onnxruntime_packages() -> dict[str, str]:
    """Versions of the installed packages that put files into the folder `onnxruntime`, by name."""
    packages: dict[str, str] = {}
    for package in metadata.distributions():
        name = (package.metadata["Name"] or "").lower()
        if re.match(r"onnxruntime|ort[-_]", name) and any(
            str(file) == "onnxruntime/__init__.py" for file in package.files or ()
        ):
            packages.setdefault(name, package.version)  # the first on the path is the one in use
    return dict(sorted(packages.items()))


def _threads() -> tuple[Threads, str | None]:
    """The threads of one inference, and the error of the variable that sets them, if any."""
    cpus, allowed, quota = machine_cpus(), allowed_cpus(), cgroup_quota()
    try:
        usable, source = thread_budget()
    except NinEdgeError as error:
        return Threads(None, "NIN_EDGE_THREADS", cpus, allowed, quota), str(error)
    return Threads(usable, source, cpus, allowed, quota), None

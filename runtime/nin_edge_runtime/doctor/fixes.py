"""Rules that find an installation's problems, and the command that fixes each."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nin_edge_runtime.doctor.probe import Probe
from nin_edge_runtime.providers import PROVIDERS, release

OLDEST_RELEASE: Final = (1, 15)
"""The oldest supported ONNX Runtime."""

ILLEGAL_RELEASE: Final = "1.21.0"
"""The ONNX Runtime that dies on 64-bit Arm without dot products: microsoft/onnxruntime 23957."""

GPU_PACKAGE: Final = "onnxruntime-gpu[cuda,cudnn]"
"""What pip installs for CUDA."""

_OUR_WHEELS: Final = ("nin_edge_runtime", "nin_edge")
_NUMPY_2_RELEASE: Final = (1, 19)  # the first ONNX Runtime built for NumPy 2


@dataclass(frozen=True)
class Problem:
    """A problem of this installation."""

    what: str
    """The problem, in one line."""
    fix: str | None
    """The command that fixes it, for a POSIX shell; None if no single command does."""


def reinstall(packages: Mapping[str, str], wanted: str) -> str:
    """The command that leaves only one package in ONNX Runtime's folder.

    Args:
        packages: the installed packages that share the folder, by name.
        wanted: the package to install in their place.
    """
    install = _pip("install", wanted)
    return f"{_pip('uninstall', '-y', *packages)} && {install}" if packages else install


def package_problems(
    packages: Mapping[str, str], cpu: Probe, versions: Mapping[str, str | None]
) -> Iterator[Problem]:
    """Find problems of the installed packages.

    Args:
        packages: versions of the packages that provide `onnxruntime`, by name.
        cpu: the probe of the provider `cpu`.
        versions: by name, at least of `nin-edge`, `nin-edge-runtime`, `numpy` and `ONNX Runtime`.
    """
    wanted = GPU_PACKAGE if cpu.driver else "onnxruntime"
    conflict = len(packages) > 1
    if conflict:
        names = " and ".join(f"{name} {version}" for name, version in packages.items())
        yield Problem(
            f"{names} are both installed: they put different files into one folder",
            reinstall(packages, wanted),
        )
    if _has_illegal_instructions(packages, versions):
        yield Problem(
            f"ONNX Runtime {ILLEGAL_RELEASE} ends with an illegal instruction on Cortex-A53 and "
            "A72 (Raspberry Pi 3 and 4)",
            _pip("install", "--upgrade", f"onnxruntime!={ILLEGAL_RELEASE}"),
        )
    elif cpu.error is not None and not conflict:
        yield _cpu_problem(packages, cpu, versions, wanted)
    elif cpu.version is not None and release(cpu.version) < OLDEST_RELEASE:
        yield Problem(
            f"ONNX Runtime {cpu.version} is older than "
            f"{'.'.join(map(str, OLDEST_RELEASE))}, the oldest that is supported",
            _pip("install", "--upgrade", *(packages or ["onnxruntime"])),
        )
    runtime, toolkit = versions["nin-edge-runtime"], versions["nin-edge"]
    if toolkit is not None and toolkit != runtime:
        wheels = [f"./{name}-{toolkit}-py3-none-any.whl" for name in _OUR_WHEELS]
        yield Problem(
            f"nin-edge is {toolkit} and nin-edge-runtime {runtime}: expected one version of both",
            _pip("install", *wheels),
        )


def cuda_problems(
    packages: Mapping[str, str], cuda: Probe, variables: Mapping[str, str]
) -> Iterator[Problem]:
    """Find problems of a CUDA that the installed ONNX Runtime was built with.

    Args:
        packages: versions of the packages that provide `onnxruntime`, by name.
        cuda: the probe of the provider `cuda`.
        variables: nin-edge's environment variables, by name.
    """
    error = cuda.error
    if error is None or len(packages) > 1 or variables.get("NIN_EDGE_PROVIDER") == "cpu":
        return
    if cuda.differs:
        yield Problem(f"provider cuda: {error}", "export NIN_EDGE_PROVIDER=cpu")
        return
    fix = None
    if not cuda.driver:
        error = f"no NVIDIA driver here ({error})"
        fix = reinstall(packages, "onnxruntime")
    elif "cannot open shared object file" in error and platform.machine() == "x86_64":
        name, version = next(iter(packages.items()), ("onnxruntime-gpu", ""))
        fix = _pip("install", f"{name}[cuda,cudnn]" + (f"=={version}" if version else ""))
    yield Problem(f"provider cuda: ONNX Runtime has it but it does not start: {error}", fix)


def variable_problems(
    variables: Mapping[str, str], bad_threads: str | None, *, has_cuda: bool
) -> Iterator[Problem]:
    """Find problems of the environment variables.

    Args:
        variables: nin-edge's environment variables, by name.
        bad_threads: the error of `NIN_EDGE_THREADS`, if it has one.
        has_cuda: whether the installed ONNX Runtime was built with CUDA.
    """
    provider = variables.get("NIN_EDGE_PROVIDER")
    if provider and provider not in ("auto", *PROVIDERS):
        yield Problem(
            f"NIN_EDGE_PROVIDER is {provider!r}: expected auto, {' or '.join(PROVIDERS)}",
            "unset NIN_EDGE_PROVIDER",
        )
    if provider == "cuda" and not has_cuda:
        yield Problem(
            "NIN_EDGE_PROVIDER is 'cuda', which is not in the installed ONNX Runtime",
            "unset NIN_EDGE_PROVIDER",
        )
    if bad_threads:
        yield Problem(bad_threads, "unset NIN_EDGE_THREADS")


def _cpu_problem(
    packages: Mapping[str, str], cpu: Probe, versions: Mapping[str, str | None], wanted: str
) -> Problem:
    """The problem of a CPU provider that does not work, in the only installed package."""
    if cpu.differs:
        return Problem(f"provider cpu: {cpu.error}", None)
    if old := _built_for_numpy_1(packages, versions["numpy"]):
        return Problem(
            f"{old} was built for NumPy 1 and cannot be loaded with NumPy {versions['numpy']}",
            _pip("install", "numpy<2"),
        )
    ours = packages.keys() <= {"onnxruntime", "onnxruntime-gpu"}  # else another vendor's build
    fix = reinstall(packages, wanted if ours else next(iter(packages)))
    return Problem(f"provider cpu: {cpu.error}", fix)


def _has_illegal_instructions(
    packages: Mapping[str, str], versions: Mapping[str, str | None]
) -> bool:
    names = (ILLEGAL_RELEASE, ILLEGAL_RELEASE.removesuffix(".0"))  # Debian's has the second
    return (
        platform.machine() == "aarch64"
        and packages.keys() <= {"onnxruntime"}  # Debian's lists no files, so it is not in them
        and versions["ONNX Runtime"] in names
    )


def _built_for_numpy_1(packages: Mapping[str, str], numpy: str | None) -> str | None:
    """The installed ONNX Runtime that cannot be loaded because NumPy is too new for it."""
    if numpy is not None and numpy.startswith("1."):
        return None
    old = (
        f"{name} {version}"
        for name, version in packages.items()
        if (0, 0) < release(version) < _NUMPY_2_RELEASE
    )
    return next(old, None)


def _pip(*arguments: str) -> str:
    return shlex.join([sys.executable or "python3", "-m", "pip", *arguments])

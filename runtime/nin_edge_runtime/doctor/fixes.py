"""What is wrong with an installation, and the command that mends it: rules over what was found."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nin_edge_runtime.providers import PROVIDERS

OLDEST_RELEASE: Final = (1, 15)
"""The oldest ONNX Runtime that is supported."""

GPU_PACKAGE: Final = "onnxruntime-gpu[cuda,cudnn]"
_OUR_WHEELS: Final = ("nin_edge_runtime", "nin_edge")
_NUMPY_2_RELEASE: Final = (1, 19)  # the first ONNX Runtime that was built for it


@dataclass(frozen=True)
class Problem:
    """Something that is wrong."""

    what: str
    """In one line."""
    mend: str | None
    """The command that mends it, for a POSIX shell; None where no one command does."""


def _pip(*arguments: str) -> str:
    return shlex.join([sys.executable or "python3", "-m", "pip", *arguments])


def replacement(packages: Mapping[str, str], wanted: str) -> str:
    """The command that leaves one package alone in ONNX Runtime's folder."""
    install = _pip("install", wanted)
    return f"{_pip('uninstall', '-y', *packages)} && {install}" if packages else install


def package_problems(
    packages: Mapping[str, str], cpu: Mapping[str, Any], versions: Mapping[str, str | None]
) -> Iterator[Problem]:
    """What is wrong with what is installed."""
    wanted = GPU_PACKAGE if cpu.get("driver") else "onnxruntime"
    mixed = len(packages) > 1
    if mixed:
        names = " and ".join(f"{name} {version}" for name, version in packages.items())
        yield Problem(
            f"{names} are both installed: they put different files into one folder",
            replacement(packages, wanted),
        )
    if (error := cpu.get("error")) and not mixed:
        if cpu.get("differs"):
            yield Problem(f"provider cpu: {error}", None)
        elif old := _built_for_numpy_1(packages, versions):
            what = f"{old} was built for NumPy 1 and cannot be loaded beside {versions['numpy']}"
            yield Problem(what, _pip("install", "numpy<2"))
        else:
            ours = packages.keys() <= {"onnxruntime", "onnxruntime-gpu"}
            mend = replacement(packages, wanted if ours else next(iter(packages)))
            yield Problem(f"provider cpu: {error}", mend)
    elif tuple(cpu.get("release", OLDEST_RELEASE)) < OLDEST_RELEASE:
        yield Problem(
            f"ONNX Runtime {cpu['version']} is older than "
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


def _built_for_numpy_1(
    packages: Mapping[str, str], versions: Mapping[str, str | None]
) -> str | None:
    """The ONNX Runtime that cannot be loaded because NumPy is too new for it."""
    for name, version in packages.items():
        found = re.match(r"(\d+)\.(\d+)", version)
        too_old = found and (int(found[1]), int(found[2])) < _NUMPY_2_RELEASE
        if too_old and not (versions["numpy"] or "").startswith("1."):
            return f"{name} {version}"
    return None


def cuda_problems(
    packages: Mapping[str, str], cuda: Mapping[str, Any], variables: Mapping[str, str]
) -> Iterator[Problem]:
    """What is wrong with a CUDA that the installed package was built for."""
    error = cuda.get("error")
    if not error or len(packages) > 1 or variables.get("NIN_EDGE_PROVIDER") == "cpu":
        return
    mend = None
    if cuda.get("differs"):
        yield Problem(f"provider cuda: {error}", "export NIN_EDGE_PROVIDER=cpu")
        return
    if not cuda.get("driver"):
        error = f"no NVIDIA driver here ({error})"
        mend = replacement(packages, "onnxruntime")
    elif "cannot open shared object file" in error and platform.machine() == "x86_64":
        name, version = next(iter(packages.items()), ("onnxruntime-gpu", ""))
        mend = _pip("install", f"{name}[cuda,cudnn]" + (f"=={version}" if version else ""))
    yield Problem(f"provider cuda: ONNX Runtime has it but it does not start: {error}", mend)


def variable_problems(
    variables: Mapping[str, str], bad_threads: str | None, *, has_cuda: bool
) -> Iterator[Problem]:
    """What is wrong with the environment variables."""
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

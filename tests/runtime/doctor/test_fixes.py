"""The rules that find problems, and the commands that fix them."""

from __future__ import annotations

import shlex
import sys

import pytest

from nin_edge_runtime.doctor import Probe
from nin_edge_runtime.doctor.fixes import cuda_problems, package_problems, variable_problems

PIP = shlex.join([sys.executable, "-m", "pip"])
VERSIONS = {
    "nin-edge": "0.1.0",
    "nin-edge-runtime": "0.1.0",
    "numpy": "2.4.6",
    "ONNX Runtime": "1.32.0",
}
LIBRARY = "libcudnn.so.9: cannot open shared object file: No such file or directory"


def test_cuda_without_a_driver_is_given_up() -> None:
    cuda = Probe(driver=False, error=LIBRARY)
    (problem,) = cuda_problems({"onnxruntime-gpu": "1.31.1"}, cuda, {})
    assert f"no NVIDIA driver here ({LIBRARY})" in problem.what
    assert problem.fix == f"{PIP} uninstall -y onnxruntime-gpu && {PIP} install onnxruntime"


def test_cuda_without_its_libraries_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cuda = Probe(driver=True, error=LIBRARY)
    (problem,) = cuda_problems({"onnxruntime-gpu": "1.31.1"}, cuda, {})
    assert LIBRARY in problem.what
    assert problem.fix == f"{PIP} install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"


def test_cuda_with_another_fault_has_no_command() -> None:
    cuda = Probe(driver=True, error="CUDA failure 35: the driver is too old")
    (problem,) = cuda_problems({"onnxruntime-gpu": "1.31.1"}, cuda, {})
    assert "CUDA failure 35" in problem.what
    assert problem.fix is None


def test_cuda_that_computes_something_else_is_turned_off() -> None:
    cuda = Probe(driver=True, error="its golden samples differ", differs=True)
    (problem,) = cuda_problems({"onnxruntime-gpu": "1.31.1"}, cuda, {})
    assert problem.fix == "export NIN_EDGE_PROVIDER=cpu"


def test_cuda_that_nobody_wants_is_no_problem() -> None:
    cuda = Probe(driver=False, error=LIBRARY)
    packages = {"onnxruntime-gpu": "1.31.1"}
    assert not list(cuda_problems(packages, cuda, {"NIN_EDGE_PROVIDER": "cpu"}))
    assert not list(cuda_problems(packages, Probe(samples=8), {}))


def test_an_old_release_is_upgraded() -> None:
    cpu = Probe(version="1.14.1", samples=8)
    (problem,) = package_problems({"onnxruntime": "1.14.1"}, cpu, VERSIONS)
    assert "1.14.1 is older than 1.15" in problem.what
    assert problem.fix == f"{PIP} install --upgrade onnxruntime"


@pytest.mark.parametrize(
    ("packages", "version", "cpu"),
    [
        ({"onnxruntime": "1.21.0"}, "1.21.0", Probe(error="ONNX Runtime ended its process")),
        ({"onnxruntime": "1.21.0"}, "1.21.0", Probe(version="1.21.0", samples=8)),
        ({}, "1.21", Probe(error="ONNX Runtime ended its process")),
    ],
    ids=["Cortex-A72", "Cortex-A76", "Debian's package"],
)
def test_a_release_with_illegal_instructions_is_named_on_arm(
    packages: dict[str, str], version: str, cpu: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (problem,) = package_problems(packages, cpu, {**VERSIONS, "ONNX Runtime": version})
    assert "1.21.0 ends with an illegal instruction on Cortex-A53 and A72" in problem.what
    assert problem.fix == f"{PIP} install --upgrade 'onnxruntime!=1.21.0'"


@pytest.mark.parametrize(
    ("package", "version", "machine"),
    [
        ("onnxruntime", "1.21.0", "x86_64"),
        ("onnxruntime", "1.21.0", "armv7l"),
        ("onnxruntime", "1.21.1", "aarch64"),
        ("onnxruntime-gpu", "1.21.0", "aarch64"),
    ],
)
def test_other_releases_and_processors_have_no_illegal_instructions(
    package: str, version: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    cpu = Probe(version=version, samples=8)
    versions = {**VERSIONS, "ONNX Runtime": version}
    assert not list(package_problems({package: version}, cpu, versions))


def test_a_package_of_a_third_party_is_kept() -> None:
    (problem,) = package_problems({"onnxruntime-openvino": "1.22.0"}, Probe(error="x"), VERSIONS)
    assert problem.fix is not None
    assert problem.fix.endswith("install onnxruntime-openvino")


def test_a_driver_asks_for_the_package_with_cuda() -> None:
    packages = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    (problem,) = package_problems(packages, Probe(driver=True), VERSIONS)
    assert problem.fix is not None
    assert problem.fix.endswith("install 'onnxruntime-gpu[cuda,cudnn]'")


def test_two_versions_of_ours_are_installed_from_files() -> None:
    (problem,) = package_problems({}, Probe(), {**VERSIONS, "nin-edge": "0.2.0"})
    assert "nin-edge is 0.2.0 and nin-edge-runtime 0.1.0" in problem.what
    assert problem.fix == (
        f"{PIP} install ./nin_edge_runtime-0.2.0-py3-none-any.whl ./nin_edge-0.2.0-py3-none-any.whl"
    )


@pytest.mark.parametrize("value", ["gpu", "CUDA"])
def test_an_unknown_provider_in_the_variable(value: str) -> None:
    (problem,) = variable_problems({"NIN_EDGE_PROVIDER": value}, None, has_cuda=True)
    assert repr(value) in problem.what
    assert problem.fix == "unset NIN_EDGE_PROVIDER"


@pytest.mark.parametrize("value", ["", "auto", "cpu", "cuda"])
def test_a_known_provider_in_the_variable(value: str) -> None:
    assert not list(variable_problems({"NIN_EDGE_PROVIDER": value}, None, has_cuda=True))


def test_cuda_in_the_variable_without_cuda() -> None:
    (problem,) = variable_problems({"NIN_EDGE_PROVIDER": "cuda"}, None, has_cuda=False)
    assert problem.fix == "unset NIN_EDGE_PROVIDER"


def test_cpu_that_computes_something_else_has_no_command() -> None:
    cpu = Probe(version="1.32.0", error="its golden samples differ", differs=True)
    (problem,) = package_problems({}, cpu, VERSIONS)
    assert (problem.what, problem.fix) == ("provider cpu: its golden samples differ", None)

"""The doctor: what it finds on this machine, and in installations that are broken on purpose.

A broken ONNX Runtime is a module of that name before the real one on the path. The real wheel for
CUDA, and both wheels at once, are in tests/packaging/test_gpu_wheel.py.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import nin_edge_runtime
from nin_edge_runtime.doctor import probe as probes
from nin_edge_runtime.doctor.diagnose import Diagnosis, ProviderState, diagnose
from nin_edge_runtime.doctor.fixes import cuda_problems, package_problems, variable_problems
from nin_edge_runtime.doctor.probe import examine
from nin_edge_runtime.errors import GateError
from nin_edge_runtime.providers import PROVIDERS
from nin_edge_runtime.threads import usable_threads
from nin_edge_runtime.verify import TOLERANCES, Replay

PIP = shlex.join([sys.executable, "-m", "pip"])

VERSIONS = {"nin-edge": "0.1.0", "nin-edge-runtime": "0.1.0", "numpy": "2.4.6"}

# What the real package prints where CUDA's libraries are missing, and where its driver fails.
MISSING_LIBRARY = (
    "\x1b[1;31m2026-11-24 13:45:49.074056458 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 "
    "operator()] /onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 "
    "onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : "
    "Failed to load library /x/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: "
    "cannot open shared object file: No such file or directory\n\x1b[m\n"
    "\x1b[0;93m2026-11-24 13:45:49.074092401 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:"
    "1295 CreateExecutionProviderFactoryInstance] Failed to create CUDAExecutionProvider.\x1b[m\n"
)
FAILING_DRIVER = (
    "2026-11-24 13:45:49.0 [E:onnxruntime:Default, cuda_call.cc:118 CudaCall] CUDA failure 35: "
    "CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=x\n"
)
OTHER_LINE = "2026-11-24 13:45:49.0 [W:onnxruntime:Default, x.cc:1 F] Something else.\x1b[m\n"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NIN_EDGE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Diagnosis]:
    """What is found where ONNX Runtime is the given code."""

    def find(code: str) -> Diagnosis:
        (tmp_path / "onnxruntime.py").write_text(code, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return diagnose()

    return find


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Lets a package count as installed that puts its files where ONNX Runtime's are."""

    def write(name: str, version: str) -> None:
        folder = tmp_path / "packages" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", "utf-8")
        (folder / "RECORD").write_text("onnxruntime/__init__.py,,\n", "utf-8")
        monkeypatch.syspath_prepend(folder.parent)

    return write


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    """What is found on this machine, without variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NIN_EDGE_")]:
            patch.delenv(name)
        return diagnose()


class TestHere:
    def test_the_cpu_computes_what_was_exported(self, here: Diagnosis) -> None:
        cpu = here.providers[0]
        assert (cpu.name, cpu.included, cpu.works) == ("cpu", True, True)
        assert cpu.tolerance == TOLERANCES["int8"]
        assert cpu.difference is not None
        assert 0 <= cpu.difference <= cpu.tolerance
        assert "8 golden samples" in cpu.detail

    def test_versions_are_those_of_the_modules(self, here: Diagnosis) -> None:
        assert here.versions["nin-edge-runtime"] == nin_edge_runtime.__version__
        assert here.versions["numpy"] == np.__version__
        assert here.versions["ONNX Runtime"] == onnxruntime.__version__
        assert onnxruntime.__version__ in here.onnxruntime_packages.values()

    def test_cuda_is_absent_where_the_package_lacks_it(self, here: Diagnosis) -> None:
        if PROVIDERS["cuda"] in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime is built with CUDA")
        cuda = here.providers[1]
        assert (cuda.name, cuda.included, cuda.works) == ("cuda", False, False)
        assert cuda.detail.startswith("not in the installed ONNX Runtime")

    def test_nothing_is_wrong(self, here: Diagnosis) -> None:
        if PROVIDERS["cuda"] in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime is built with CUDA, which may not start")
        assert here.problems == ()
        assert here.ok

    def test_threads_are_those_of_a_session(self, here: Diagnosis) -> None:
        threads = here.threads
        assert threads.usable == usable_threads()
        assert 1 <= threads.usable <= threads.allowed <= threads.cpus

    def test_all_of_it_is_json(self, here: Diagnosis) -> None:
        assert json.loads(json.dumps(asdict(here)))["providers"][0]["works"] is True


class TestBrokenRuntime:
    def only(self, found: Diagnosis) -> str:
        """The only problem; nothing is claimed to work."""
        assert not found.ok
        assert not any(state.works or state.included for state in found.providers)
        (problem,) = found.problems
        assert problem.mend is not None
        assert problem.mend.startswith(PIP)
        assert problem.mend.endswith(f"{PIP} install onnxruntime")
        assert "\n" not in problem.what
        return problem.what

    def test_missing(self, broken: Callable[[str], Diagnosis]) -> None:
        what = self.only(broken("raise ModuleNotFoundError('none', name='onnxruntime')"))
        assert "ONNX Runtime is not installed" in what

    def test_cannot_be_imported(self, broken: Callable[[str], Diagnosis]) -> None:
        what = self.only(broken("raise ImportError('libfoo.so.1: cannot\\nopen')"))
        assert "ONNX Runtime cannot be loaded: libfoo.so.1: cannot open" in what

    @pytest.mark.skipif(os.name != "posix", reason="no signals here")
    def test_ends_its_process(self, broken: Callable[[str], Diagnosis]) -> None:
        what = self.only(broken("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"))
        assert "ended its process (SIGKILL)" in what

    def test_leaves_its_process(self, broken: Callable[[str], Diagnosis]) -> None:
        what = self.only(
            broken("import os, sys\nprint('so long', file=sys.stderr, flush=True)\nos._exit(3)")
        )
        assert "its process failed: so long" in what

    def test_hangs(
        self, broken: Callable[[str], Diagnosis], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probes, "_TIMEOUT", 1)
        what = self.only(broken("import time\ntime.sleep(60)"))
        assert "no answer within 1 s" in what

    def test_lacks_what_is_used(self, broken: Callable[[str], Diagnosis]) -> None:
        found = broken("class InferenceSession: ...\n__version__ = '1.32.0'")
        assert not found.ok
        assert "AttributeError" in found.problems[0].what

    def test_is_too_new_a_numpys(
        self, broken: Callable[[str], Diagnosis], install: Callable[[str, str], None]
    ) -> None:
        if np.__version__.startswith("1."):
            pytest.skip("NumPy 1 is here")
        install("onnxruntime", "1.18.0")
        (problem,) = broken("raise ImportError").problems
        assert "onnxruntime 1.18.0 was built for NumPy 1" in problem.what
        assert problem.mend == f"{PIP} install 'numpy<2'"

    def test_two_packages_at_once(self, install: Callable[[str, str], None]) -> None:
        install("onnxruntime-gpu", "1.31.1")
        found = diagnose()
        assert found.onnxruntime_packages.keys() >= {"onnxruntime-gpu"}
        if len(found.onnxruntime_packages) < 2:
            pytest.skip("only onnxruntime-gpu is installed here")
        assert "onnxruntime-gpu 1.31.1 are both installed" in found.problems[0].what
        mend = found.problems[0].mend
        assert mend is not None
        assert mend.startswith(f"{PIP} uninstall -y onnxruntime onnxruntime-gpu && {PIP} install ")


class TestExamine:
    def test_samples_that_differ_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def differ(_: object) -> Replay:
            raise GateError("its golden samples differ")

        monkeypatch.setattr(probes, "replay", differ)
        found = examine("cpu")
        assert found["differs"] is True
        (problem,) = package_problems({}, found, VERSIONS)
        assert (problem.what, problem.mend) == ("provider cpu: its golden samples differ", None)

    @pytest.mark.parametrize(
        ("stderr", "reason"),
        [
            (
                MISSING_LIBRARY,
                "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            ),
            (
                FAILING_DRIVER,
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
            ),
            (OTHER_LINE, "Something else."),
            ("nothing of ONNX Runtime's\n", None),
        ],
    )
    def test_native_lines_give_the_reason(self, stderr: str, reason: str | None) -> None:
        assert probes._native_reason(stderr) == reason

    def test_without_a_python_to_start_this_process_is_used(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "")
        assert probes.probe("cpu")["samples"] == 8

    def test_a_python_that_cannot_be_started_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
        assert "none cannot be started" in probes.probe("cpu")["error"]


class TestRemedies:
    LIBRARY = "libcudnn.so.9: cannot open shared object file: No such file or directory"

    def test_cuda_without_a_driver_is_given_up(self) -> None:
        found = {"error": self.LIBRARY, "driver": False}
        (problem,) = cuda_problems({"onnxruntime-gpu": "1.31.1"}, found, {})
        assert f"no NVIDIA driver here ({self.LIBRARY})" in problem.what
        assert problem.mend == f"{PIP} uninstall -y onnxruntime-gpu && {PIP} install onnxruntime"

    def test_cuda_without_its_libraries_gets_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        found = {"error": self.LIBRARY, "driver": True}
        (problem,) = cuda_problems({"onnxruntime-gpu": "1.31.1"}, found, {})
        assert self.LIBRARY in problem.what
        assert problem.mend == f"{PIP} install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"

    def test_cuda_with_another_fault_has_no_command(self) -> None:
        found = {"error": "CUDA failure 35: the driver is too old", "driver": True}
        (problem,) = cuda_problems({"onnxruntime-gpu": "1.31.1"}, found, {})
        assert "CUDA failure 35" in problem.what
        assert problem.mend is None

    def test_cuda_that_computes_something_else_is_turned_off(self) -> None:
        found = {"error": "its golden samples differ", "driver": True, "differs": True}
        (problem,) = cuda_problems({"onnxruntime-gpu": "1.31.1"}, found, {})
        assert problem.mend == "export NIN_EDGE_PROVIDER=cpu"

    def test_cuda_that_nobody_wants_is_no_problem(self) -> None:
        found = {"error": self.LIBRARY, "driver": False}
        packages = {"onnxruntime-gpu": "1.31.1"}
        assert not list(cuda_problems(packages, found, {"NIN_EDGE_PROVIDER": "cpu"}))
        assert not list(cuda_problems(packages, {"samples": 8}, {}))

    def test_an_old_release_is_upgraded(self) -> None:
        cpu = {"version": "1.14.1", "release": [1, 14], "samples": 8}
        (problem,) = package_problems({"onnxruntime": "1.14.1"}, cpu, VERSIONS)
        assert "1.14.1 is older than 1.15" in problem.what
        assert problem.mend == f"{PIP} install --upgrade onnxruntime"

    def test_a_package_of_a_third_party_is_kept(self) -> None:
        (problem,) = package_problems({"onnxruntime-openvino": "1.22.0"}, {"error": "x"}, VERSIONS)
        assert problem.mend is not None
        assert problem.mend.endswith("install onnxruntime-openvino")

    def test_a_driver_asks_for_the_package_with_cuda(self) -> None:
        packages = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
        (problem,) = package_problems(packages, {"driver": True}, VERSIONS)
        assert problem.mend is not None
        assert problem.mend.endswith("install 'onnxruntime-gpu[cuda,cudnn]'")

    def test_two_versions_of_ours_are_installed_from_files(self) -> None:
        (problem,) = package_problems({}, {}, {**VERSIONS, "nin-edge": "0.2.0"})
        assert "nin-edge is 0.2.0 and nin-edge-runtime 0.1.0" in problem.what
        assert problem.mend == (
            f"{PIP} install ./nin_edge_runtime-0.2.0-py3-none-any.whl "
            "./nin_edge-0.2.0-py3-none-any.whl"
        )

    @pytest.mark.parametrize("value", ["gpu", "CUDA"])
    def test_an_unknown_provider_in_the_variable(self, value: str) -> None:
        (problem,) = variable_problems({"NIN_EDGE_PROVIDER": value}, None, has_cuda=True)
        assert repr(value) in problem.what
        assert problem.mend == "unset NIN_EDGE_PROVIDER"

    @pytest.mark.parametrize("value", ["", "auto", "cpu", "cuda"])
    def test_a_known_provider_in_the_variable(self, value: str) -> None:
        assert not list(variable_problems({"NIN_EDGE_PROVIDER": value}, None, has_cuda=True))

    def test_cuda_in_the_variable_without_cuda(self) -> None:
        (problem,) = variable_problems({"NIN_EDGE_PROVIDER": "cuda"}, None, has_cuda=False)
        assert problem.mend == "unset NIN_EDGE_PROVIDER"


def test_variables_in_force_are_listed_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIN_EDGE_THREADS", "many")
    monkeypatch.setenv("NIN_EDGE_PROVIDER", "cpu")
    found = diagnose()
    assert found.variables == {"NIN_EDGE_PROVIDER": "cpu", "NIN_EDGE_THREADS": "many"}
    assert found.threads.usable is None
    assert isinstance(found.providers[0], ProviderState)
    assert found.providers[0].works
    assert [problem.mend for problem in found.problems] == ["unset NIN_EDGE_THREADS"]

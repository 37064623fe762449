"""The whole diagnosis: of this machine, and of installations that are broken on purpose.

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
from nin_edge_runtime.doctor import Diagnosis, ProviderState, diagnose, probe
from nin_edge_runtime.providers import PROVIDERS
from nin_edge_runtime.threads import usable_threads
from nin_edge_runtime.verify import TOLERANCES

PIP = shlex.join([sys.executable, "-m", "pip"])


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Diagnosis]:
    """The diagnosis where ONNX Runtime is the given code."""

    def find(code: str) -> Diagnosis:
        (tmp_path / "onnxruntime.py").write_text(code, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return diagnose()

    return find


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Make a package with files in ONNX Runtime's folder count as installed."""

    def write(name: str, version: str) -> None:
        folder = tmp_path / "packages" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", "utf-8")
        (folder / "RECORD").write_text("onnxruntime/__init__.py,,\n", "utf-8")
        monkeypatch.syspath_prepend(folder.parent)

    return write


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    """The diagnosis of this machine, without nin-edge's variables."""
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


@pytest.mark.exhaustive
class TestBrokenRuntime:
    def only(self, found: Diagnosis) -> str:
        """The only problem; nothing is claimed to work."""
        assert not found.ok
        assert not any(state.works or state.included for state in found.providers)
        (problem,) = found.problems
        assert problem.fix is not None
        assert problem.fix.startswith(PIP)
        assert problem.fix.endswith(f"{PIP} install onnxruntime")
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
        monkeypatch.setattr(probe, "_TIMEOUT", 1)
        what = self.only(broken("import time\ntime.sleep(60)"))
        assert "no answer within 1 s" in what

    def test_lacks_what_is_used(self, broken: Callable[[str], Diagnosis]) -> None:
        found = broken("class InferenceSession: ...\n__version__ = '1.32.0'")
        assert not found.ok
        assert "AttributeError" in found.problems[0].what

    def test_was_built_for_an_older_numpy(
        self, broken: Callable[[str], Diagnosis], install: Callable[[str, str], None]
    ) -> None:
        if np.__version__.startswith("1."):
            pytest.skip("NumPy 1 is here")
        install("onnxruntime", "1.18.0")
        (problem,) = broken("raise ImportError").problems
        assert "onnxruntime 1.18.0 was built for NumPy 1" in problem.what
        assert problem.fix == f"{PIP} install 'numpy<2'"

    def test_two_packages_at_once(self, install: Callable[[str, str], None]) -> None:
        install("onnxruntime-gpu", "1.31.1")
        found = diagnose()
        assert found.onnxruntime_packages.keys() >= {"onnxruntime-gpu"}
        if len(found.onnxruntime_packages) < 2:
            pytest.skip("only onnxruntime-gpu is installed here")
        assert "onnxruntime-gpu 1.31.1 are both installed" in found.problems[0].what
        fix = found.problems[0].fix
        assert fix is not None
        assert fix.startswith(f"{PIP} uninstall -y onnxruntime onnxruntime-gpu && {PIP} install ")


def test_variables_in_force_are_listed_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIN_EDGE_THREADS", "many")
    monkeypatch.setenv("NIN_EDGE_PROVIDER", "cpu")
    found = diagnose()
    assert found.variables == {"NIN_EDGE_PROVIDER": "cpu", "NIN_EDGE_THREADS": "many"}
    assert found.threads.usable is None
    assert isinstance(found.providers[0], ProviderState)
    assert found.providers[0].works
    assert [problem.fix for problem in found.problems] == ["unset NIN_EDGE_THREADS"]

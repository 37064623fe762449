from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnxruntime
import pytest

from nin_edge_runtime import (
    Classifier,
    MissingDependencyError,
    ModelFileError,
    ProviderError,
    providers,
)
from nin_edge_runtime.providers import PROVIDERS, create_session, load_onnxruntime


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIN_EDGE_THREADS", raising=False)
    monkeypatch.delenv("NIN_EDGE_PROVIDER", raising=False)


def only_without_cuda() -> None:
    if PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built with CUDA")


class TestSession:
    def test_gets_the_usable_threads(
        self, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NIN_EDGE_THREADS", "3")
        for threads, expected in ((None, 3), (2, 2)):
            session, _ = create_session(tiny_bytes, "tiny", provider="cpu", threads=threads)
            options = session.get_session_options()
            assert options.intra_op_num_threads == expected
            assert options.inter_op_num_threads == 1

    @pytest.mark.parametrize("spin", [False, True])
    @pytest.mark.parametrize("arena", [False, True])
    def test_gets_what_is_asked_for(self, tiny_bytes: bytes, spin: bool, arena: bool) -> None:
        session, _ = create_session(tiny_bytes, "tiny", provider="cpu", spin=spin, arena=arena)
        options = session.get_session_options()
        assert options.enable_cpu_mem_arena is arena
        assert options.enable_mem_pattern is arena
        for pool in ("intra_op", "inter_op"):
            entry = options.get_session_config_entry(f"session.{pool}.allow_spinning")
            assert entry == str(int(spin))

    def test_does_not_spin_and_keeps_its_memory_if_nothing_is_said(self, tiny_bytes: bytes) -> None:
        options = create_session(tiny_bytes, "tiny", provider="cpu")[0].get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert options.enable_cpu_mem_arena is True

    @pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity here")
    def test_idle_threads_take_little_cpu_time(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        script = (
            "import time\n"
            "import numpy as np\n"
            "from nin_edge_runtime import DEFAULT_MODEL\n"
            "from nin_edge_runtime.providers import create_session\n"
            "image = np.zeros((1, 32, 32, 3), np.uint8)\n"
            "for spin in (False, True):\n"
            "    session, _ = create_session(\n"
            "        DEFAULT_MODEL.read_bytes(), 'm', provider='cpu', threads=3, spin=spin\n"
            "    )\n"
            "    spent = 0\n"
            "    for _ in range(20):\n"
            "        session.run(None, {'image': image})\n"
            "        before = time.process_time()\n"
            "        time.sleep(0.01)\n"
            "        spent += time.process_time() - before\n"
            "    print(spent)\n"
        )
        done = run_python(script)
        idle, spinning = map(float, done.stdout.split())
        assert 3 * idle < spinning, done.stderr  # seconds of CPU time in 0.2 seconds of sleep


class TestProvider:
    def test_cpu_is_cpu(self, tiny_bytes: bytes) -> None:
        session, active = create_session(tiny_bytes, "tiny", provider="cpu", threads=1)
        assert active == "cpu"
        assert session.get_providers() == [PROVIDERS["cpu"]]

    def test_auto_without_cuda_is_cpu_without_a_warning(
        self, tiny_bytes: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        only_without_cuda()
        assert create_session(tiny_bytes, "tiny", threads=1)[1] == "cpu"
        assert not caplog.records

    def test_cuda_without_cuda_is_refused(self, tiny_bytes: bytes) -> None:
        only_without_cuda()
        with pytest.raises(ProviderError, match="onnxruntime-gpu"):
            create_session(tiny_bytes, "tiny", provider="cuda", threads=1)

    @pytest.mark.parametrize("provider", ["gpu", "CPU", "", "tensorrt"])
    def test_an_unknown_provider_is_named(self, tiny_model: Path, provider: str) -> None:
        with pytest.raises(ProviderError, match=f"'{provider}'.*auto, cpu or cuda"):
            Classifier(tiny_model, provider=provider)

    def test_the_variable_takes_the_place_of_auto_alone(
        self, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NIN_EDGE_PROVIDER", "cpu")
        assert create_session(tiny_bytes, "tiny", threads=1)[1] == "cpu"
        monkeypatch.setenv("NIN_EDGE_PROVIDER", "npu")
        assert create_session(tiny_bytes, "tiny", provider="cpu", threads=1)[1] == "cpu"
        with pytest.raises(ProviderError, match="'npu'"):
            create_session(tiny_bytes, "tiny", threads=1)

    def test_cuda_by_the_variable_is_as_strict_as_by_argument(
        self, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        only_without_cuda()
        monkeypatch.setenv("NIN_EDGE_PROVIDER", "cuda")
        with pytest.raises(ProviderError):
            create_session(tiny_bytes, "tiny", threads=1)

    @pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")  # ONNX Runtime's own
    def test_cuda_that_is_listed_but_does_not_start(
        self,
        tiny_bytes: bytes,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        only_without_cuda()
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: [*reversed(PROVIDERS.values())]
        )
        with caplog.at_level(logging.WARNING):
            assert create_session(tiny_bytes, "tiny", threads=1)[1] == "cpu"
        assert len(caplog.records) == 1
        assert create_session(tiny_bytes, "tiny", provider="cpu", threads=1)[1] == "cpu"
        assert len(caplog.records) == 1
        with pytest.raises(ProviderError, match="could not start"):
            create_session(tiny_bytes, "tiny", provider="cuda", threads=1)

    def test_a_graph_that_onnx_runtime_refuses_is_a_model_file_error(
        self, tiny_bytes: bytes, forge: Callable[..., bytes]
    ) -> None:
        forged = forge(tiny_bytes, graph=b"\x12\x05empty")
        with pytest.raises(ModelFileError, match=r"forged\.onnx: ONNX Runtime .* cannot load it"):
            create_session(forged, "forged.onnx", provider="cpu")

    @pytest.mark.parametrize("verbose", [False, True])
    def test_native_lines_appear_only_where_the_log_is_on(
        self,
        tiny_bytes: bytes,
        tmp_path: Path,
        run_python: Callable[..., subprocess.CompletedProcess[str]],
        verbose: bool,
    ) -> None:
        model = tmp_path / "model.onnx"
        model.write_bytes(tiny_bytes)
        script = (
            "import logging, sys\n"
            "import numpy as np\n"
            "from pathlib import Path\n"
            f"logging.basicConfig(level='{'INFO' if verbose else 'WARNING'}')\n"
            "from nin_edge_runtime.providers import create_session\n"
            "session, _ = create_session(Path(sys.argv[1]).read_bytes(), 'm', provider='cpu')\n"
            "try:\n"
            "    session.run(None, {'image': np.zeros((1, 0, 0, 3), np.uint8)})\n"
            "except Exception as error:\n"
            "    assert 'FAIL' in str(error), error\n"
            "else:\n"
            "    raise AssertionError('expected the run to fail')\n"
        )
        done = run_python(script, model)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert (":onnxruntime:" in done.stderr) is verbose
        assert verbose or done.stderr == ""

    def test_without_onnx_runtime_the_error_has_the_command(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]], tiny_model: Path
    ) -> None:
        script = (
            "import sys\n"
            "sys.modules['onnxruntime'] = None\n"
            "from nin_edge_runtime import Classifier, MissingDependencyError\n"
            "try:\n"
            "    Classifier(sys.argv[1])\n"
            "except MissingDependencyError as error:\n"
            "    print(error)\n"
        )
        done = run_python(script, tiny_model)
        assert "pip install onnxruntime" in done.stdout, done.stderr

    def test_a_folder_that_a_package_left_behind_is_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
        with pytest.raises(MissingDependencyError, match=r"files are missing.*uninstall both"):
            load_onnxruntime()

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("raise AttributeError('_ARRAY_API not found')", "_ARRAY_API not found"),
            ("raise ImportError", "native library does not start"),
            ("import a_module_that_is_missing", "a_module_that_is_missing"),
            ("1 +", "invalid syntax"),
        ],
    )
    def test_a_broken_package_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, message: str
    ) -> None:
        (tmp_path / "onnxruntime.py").write_text(code, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "onnxruntime")
        with pytest.raises(MissingDependencyError, match=f"cannot be loaded: .*{message}"):
            load_onnxruntime()


@pytest.mark.parametrize(
    ("version", "provider", "slow"),
    [
        ("1.22.1", "cpu", True),
        ("1.23.0", "cpu", False),
        ("1.23rc1", "cpu", False),
        ("1.22.1", "cuda", False),
        ("2.0", "cpu", False),
    ],
)
def test_fp16_is_slow_on_a_cpu_before_1_23(
    version: str, provider: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert providers.fp16_is_slow(provider) is slow

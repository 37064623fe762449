from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from nin_edge_runtime import (
    Classifier,
    ModelFileError,
    NinEdgeError,
    ProviderError,
    providers,
)
from nin_edge_runtime.providers import PROVIDERS, create_session, usable_threads


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIN_EDGE_THREADS", raising=False)
    monkeypatch.delenv("NIN_EDGE_PROVIDER", raising=False)


def only_without_cuda() -> None:
    if PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built with CUDA")


class TestThreads:
    @pytest.mark.parametrize("asked", ["1", "3", "1024"])
    def test_the_variable_decides(self, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
        monkeypatch.setenv("NIN_EDGE_THREADS", asked)
        assert usable_threads() == int(asked)

    @pytest.mark.parametrize(
        "asked", ["0", "-1", "two", "1.5", " 2", "1025", "\u0662", "9" * 30, "9" * 5000]
    )
    def test_a_bad_variable_is_refused_by_name(
        self, monkeypatch: pytest.MonkeyPatch, asked: str
    ) -> None:
        monkeypatch.setenv("NIN_EDGE_THREADS", asked)
        with pytest.raises(NinEdgeError, match="NIN_EDGE_THREADS"):
            usable_threads()

    def test_an_empty_variable_counts_as_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = usable_threads()
        monkeypatch.setenv("NIN_EDGE_THREADS", "")
        assert usable_threads() == expected >= 1

    @pytest.mark.parametrize(
        ("cpus", "quota", "threads"),
        [(8, 1e6, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 2.4, 2), (8, 0.1, 1), (2, 4.0, 2)],
    )
    def test_affinity_and_quota_bound_them(
        self, monkeypatch: pytest.MonkeyPatch, cpus: int, quota: float, threads: int
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
        monkeypatch.setattr(providers, "_cgroup_quota", lambda: quota)
        assert usable_threads() == threads

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
    def test_a_process_bound_to_one_cpu_uses_one_thread(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        script = (
            "import os\n"
            "from nin_edge_runtime.providers import usable_threads\n"
            "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            "print(usable_threads())\n"
        )
        done = run_python(script)
        assert done.stdout == "1\n", done.stderr

    def test_the_session_gets_them(
        self, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NIN_EDGE_THREADS", "3")
        for threads, expected in ((None, 3), (2, 2)):
            session, _ = create_session(tiny_bytes, "tiny", provider="cpu", threads=threads)
            options = session.get_session_options()
            assert options.intra_op_num_threads == expected
            assert options.inter_op_num_threads == 1


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
        self, tiny_bytes: bytes, forge: Callable[..., bytes], tmp_path: Path
    ) -> None:
        path = tmp_path / "forged.onnx"
        path.write_bytes(forge(tiny_bytes, graph=b"\x12\x05empty"))
        with pytest.raises(ModelFileError, match=r"forged\.onnx.*ONNX Runtime"):
            Classifier(path, provider="cpu")

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
    assert providers.runs_half_slowly(provider) is slow

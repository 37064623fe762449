"""Trying a provider in a process of its own, and reading why CUDA does not start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nin_edge_runtime.doctor import Probe, probe
from nin_edge_runtime.errors import GateError

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


def test_a_probe_survives_its_json() -> None:
    for result in (
        Probe(),
        Probe(True, "1.32.0", True, 8, 5e-8, 0.05),
        Probe(error='a "quoted"\nreason', differs=True),
    ):
        assert Probe.from_json(result.to_json()) == result
        assert "\n" not in result.to_json()


@pytest.mark.parametrize("text", ["", "so long", "3", '{"unknown": 1}', "[]"])
def test_another_text_is_no_probe(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of JSON's or of ours
        Probe.from_json(text)


def test_samples_that_differ_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(_: object) -> None:
        raise GateError("its golden samples differ")

    monkeypatch.setattr(probe, "replay", differ)
    result = probe.examine("cpu")
    assert (result.differs, result.error) == (True, "its golden samples differ")
    assert result.samples is None


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
def test_native_lines_give_the_reason(stderr: str, reason: str | None) -> None:
    assert probe._native_reason(stderr) == reason


def test_without_a_python_to_start_this_process_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert probe.probe("cpu").samples == 8


def test_a_python_that_cannot_be_started_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    error = probe.probe("cpu").error
    assert error is not None
    assert "none cannot be started" in error

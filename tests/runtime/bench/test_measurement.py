"""`measure` and `load_cost` with real models, in real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge_runtime import (
    DEFAULT_MODEL,
    Classifier,
    ModelFileError,
    NinEdgeError,
    ProviderError,
)
from nin_edge_runtime.bench import Bench, measure, measurement
from nin_edge_runtime.bench.loading import Cost, load_cost
from nin_edge_runtime.bench.timing import BATCHES, time_models

LARGE = 160 * 2**20  # bytes; twice the memory of a process with a small model


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load costs that need no process."""
    monkeypatch.setattr(measurement, "load_cost", lambda *_: Cost(1.0, 2, 1))


@pytest.fixture(scope="module")
def measured(tiny_model: Path) -> Bench:
    """The default model beside a smaller one."""
    return measure([DEFAULT_MODEL, tiny_model], provider="cpu", threads=1, rounds=2)


def test_models_of_different_sizes_are_compared(measured: Bench, tiny_model: Path) -> None:
    large, small = measured.models
    assert (large.file, small.file) == (str(DEFAULT_MODEL), str(tiny_model))
    assert (large.size, small.size) == (32, 16)
    assert (large.precision, small.precision) == ("int8", "fp32")
    assert (large.bytes, small.bytes) == (
        DEFAULT_MODEL.stat().st_size,
        tiny_model.stat().st_size,
    )
    assert measured.rounds == 2
    for model in measured.models:
        assert (model.provider, model.threads) == ("cpu", 1)
        assert {timing.batch for timing in model.timings} | set(model.left_out) == set(BATCHES)
        for timing in model.timings:
            assert 0 < timing.p50_ms <= timing.p90_ms <= timing.p99_ms
        assert model.load.load_ms > 0
    assert all(timing.ratio == 1 for timing in large.timings)
    assert small.timings[0].ratio is not None
    assert small.timings[0].ratio < 1


def test_added_memory_grows_with_the_model(measured: Bench) -> None:
    large, small = (model.load.added_memory_bytes for model in measured.models)
    assert large is not None
    assert small is not None
    assert small < large


def test_machine_is_named(measured: Bench) -> None:
    import onnxruntime

    machine = measured.machine
    assert machine.onnxruntime == onnxruntime.__version__
    assert machine.cpus >= 1
    assert machine.processor
    assert machine.system.split()[0] in ("Linux", "Darwin", "Windows")


@pytest.mark.parametrize("batch", [1, 4])
def test_model_with_a_fixed_batch_is_timed(
    batch: int, tiny_bytes: bytes, forge: Callable[..., bytes]
) -> None:
    onnx = pytest.importorskip("onnx", reason="the runtime is tested without onnx")
    graph = onnx.load_from_string(tiny_bytes).graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    classify = Classifier(forge(tiny_bytes, graph=graph.SerializeToString()), provider="cpu")
    _, (timings,) = time_models([classify], batches=(6,), rounds=1)
    assert [timing.batch for timing in timings] == [1, 6]


@pytest.mark.usefixtures("no_processes")
def test_threads_are_those_in_effect(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIN_EDGE_THREADS", "3")
    assert measure([tiny_model], batches=(1,), rounds=1).models[0].threads == 3
    assert measure([tiny_model], threads=2, batches=(1,), rounds=1).models[0].threads == 2


def test_memory_is_measured_in_a_fresh_process(tiny_model: Path) -> None:
    ballast = np.ones(LARGE, np.uint8)  # in this process, which starts the other
    cost = load_cost(tiny_model)
    assert len(ballast) == LARGE
    assert cost.peak_memory_bytes is not None
    assert cost.added_memory_bytes is not None
    assert 0 < cost.added_memory_bytes < cost.peak_memory_bytes < LARGE
    assert cost.load_ms > 0


def test_modules_in_the_current_folder_are_not_imported(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('a stranger')\n")
    monkeypatch.chdir(tmp_path)
    assert load_cost(tiny_model).load_ms > 0


def test_process_that_fails_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(NinEdgeError, match=r"gone\.onnx: a process of its own .*no such file"):
        load_cost(tmp_path / "gone.onnx")


def test_unreadable_model_is_named_before_anything_is_measured(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(measurement, "load_cost", started)
    with pytest.raises(ModelFileError, match=r"gone\.onnx"):
        measure([tiny_model, tmp_path / "gone.onnx"])


def test_unknown_provider_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ProviderError, match="tpu"):
        measure([tiny_model], provider="tpu")

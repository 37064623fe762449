"""`bench`: figures of a clock that is known, and what real models and processes give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge_export import ExportOptions, export_models
from nin_edge_runtime import (
    DEFAULT_MODEL,
    Classifier,
    ModelFileError,
    NinEdgeError,
    ProviderError,
    bench,
)
from nin_edge_runtime.bench import BATCHES, CALLS, interleave, load_cost, measure, time_models

ROUNDING = 1e-6  # relative; sums of a few seconds in double precision
LARGE = 500 * 2**20  # bytes; several times what a process with a small model takes


class Clock:
    """Time that passes only when something is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A classifier that takes given times: seconds of a call, by its number and its batch size."""

    provider = "cpu"

    def __init__(self, clock: Clock, seconds: Callable[[int, int], float]) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0
        self.info = SimpleNamespace(preprocessing=SimpleNamespace(size=16))

    def __call__(self, image: np.ndarray[Any, Any]) -> None:
        assert image.shape == (16, 16, 3)
        self.batch([image])

    def batch(self, images: list[np.ndarray[Any, Any]]) -> None:
        self.clock.now += self.seconds(self.calls, len(images))
        self.calls += 1


class Planning(Timed):
    """One on CUDA, which takes longer for another batch size than the last."""

    provider, last = "cuda", 0

    def batch(self, images: list[np.ndarray[Any, Any]]) -> None:
        self.clock.now += 0.01 * (len(images) != self.last)
        self.last = len(images)
        super().batch(images)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=made))
    return made


# --- time -----------------------------------------------------------------------------------------


def test_every_candidate_has_its_turn_in_every_round() -> None:
    turns: list[str] = []
    candidates = {name: lambda name=name: turns.append(name) or len(turns) for name in "abc"}
    found = interleave(candidates, lambda done: done < 2)
    assert turns == list("abcabc")
    assert found == {"a": [1, 4], "b": [2, 5], "c": [3, 6]}


def test_figures_are_those_of_the_clock(clock: Clock) -> None:
    slow = Timed(clock, lambda _, batch: 2e-3 * batch)
    fast = Timed(clock, lambda _, batch: 1e-3 + 5e-4 * batch)
    rounds, timings = time_models([slow, fast], batches=(4,), rounds=3)  # type: ignore[list-item]
    assert rounds == 3
    for found, expected in zip(
        (timing for timings_of_one in timings for timing in timings_of_one),
        ((1, 2.0, 1.0, 30), (4, 8.0, 1.0, 6), (1, 1.5, 0.75, 30), (4, 3.0, 0.375, 6)),
        strict=True,
    ):
        batch, milliseconds, ratio, calls = expected
        assert (found.batch, found.calls) == (batch, calls)
        for value in (found.p50_ms, found.p90_ms, found.p99_ms):
            assert value == pytest.approx(milliseconds, rel=ROUNDING)
        assert found.images_per_second == pytest.approx(1e3 * batch / milliseconds, rel=ROUNDING)
        assert found.ratio == pytest.approx(ratio, rel=ROUNDING)


def test_percentiles_are_of_single_calls(clock: Clock) -> None:
    uneven = Timed(clock, lambda call, _: 1e-3 if call % 20 else 9e-3)
    _, ((timing,),) = time_models([uneven], batches=(1,), rounds=100)  # type: ignore[list-item]
    assert timing.calls == 100 * CALLS
    assert timing.p50_ms == pytest.approx(1.0, rel=ROUNDING)
    assert timing.p90_ms == pytest.approx(1.0, rel=ROUNDING)
    assert timing.p99_ms == pytest.approx(9.0, rel=ROUNDING)


def test_planning_for_another_batch_size_is_not_counted(clock: Clock) -> None:
    model = Planning(clock, lambda _, batch: 1e-3 * batch)
    _, (timings,) = time_models([model], batches=(4,), rounds=3)  # type: ignore[list-item]
    assert [timing.p99_ms for timing in timings] == pytest.approx([1.0, 4.0], rel=ROUNDING)


def test_noise_of_a_round_leaves_the_ratio_alone(clock: Clock) -> None:
    # Everything takes ten times as long from some time on, in the midst of the measuring.
    def disturbed(seconds: float) -> Callable[[int, int], float]:
        return lambda *_: seconds * (10 if clock.now > 0.2 else 1)

    models = [Timed(clock, disturbed(4e-3)), Timed(clock, disturbed(3e-3))]
    _, ((first,), (second,)) = time_models(models, batches=(1,), rounds=9)  # type: ignore[arg-type]
    assert first.p99_ms == pytest.approx(40.0, rel=ROUNDING)
    assert first.ratio == 1
    assert second.ratio == pytest.approx(0.75, rel=ROUNDING)


@pytest.mark.parametrize("models", [1, 2])
def test_time_is_bounded(clock: Clock, models: int) -> None:
    timed = [Timed(clock, lambda _, batch: 1e-3 * batch) for _ in range(models)]
    rounds, _ = time_models(timed, seconds=2.0)  # type: ignore[arg-type]
    # A round of one model: 1 + 10 calls of one image, 1 of one and 1 of 8, 1 of one and 1 of 64.
    assert rounds == pytest.approx(2.0 / 0.085, abs=1)
    warm_up = 0.010 + 2 * 0.008 + 2 * 0.064
    assert clock.now < models * (2.0 + 0.085 + warm_up)


def test_even_the_slowest_is_timed_once(clock: Clock) -> None:
    rounds, ((timing,),) = time_models(
        [Timed(clock, lambda _, batch: 5.0 * batch)],  # type: ignore[list-item]
        seconds=0.1,
    )
    assert (rounds, timing.batch, timing.calls) == (1, 1, CALLS)


def test_batches_that_take_long_are_timed_if_they_are_named(clock: Clock) -> None:
    model = Timed(clock, lambda _, batch: 0.05 * batch)
    _, (timings,) = time_models([model], rounds=1)  # type: ignore[list-item]
    assert [timing.batch for timing in timings] == [1, 8]  # 64 would take over 3 s
    _, (timings,) = time_models([model], batches=(64,), rounds=1)  # type: ignore[list-item]
    assert [timing.batch for timing in timings] == [1, 64]


def test_no_ratio_to_what_was_not_timed(clock: Clock) -> None:
    slow = Timed(clock, lambda _, batch: 0.05 * batch)
    fast = Timed(clock, lambda _, batch: 0.01 * batch)
    _, (_, timings) = time_models([slow, fast], rounds=1)  # type: ignore[list-item]
    assert [timing.ratio is None for timing in timings] == [False, False, True]


def test_progress_ends_where_it_said(clock: Clock) -> None:
    model = Timed(clock, lambda _, batch: 1e-2 * batch)
    for options in ({"rounds": 3}, {"seconds": 2.5}, {"seconds": 0.1}):
        seen: list[tuple[str, int, int]] = []
        time_models(
            [model],  # type: ignore[list-item]
            batches=(1,),
            progress=lambda *given, seen=seen: seen.append(given),
            **options,  # type: ignore[arg-type]
        )
        assert [done == total for _, done, total in seen] == [False] * (len(seen) - 1) + [True]


# --- real models ----------------------------------------------------------------------------------


def test_models_of_other_sizes_stand_side_by_side(tiny_model: Path) -> None:
    found = measure([DEFAULT_MODEL, tiny_model], provider="cpu", threads=1, rounds=2)
    large, small = found.models
    assert (large.file, small.file) == (str(DEFAULT_MODEL), str(tiny_model))
    assert (large.size, small.size) == (32, 16)
    assert (large.precision, small.precision) == ("int8", "fp32")
    assert (large.bytes, small.bytes) == (
        DEFAULT_MODEL.stat().st_size,
        tiny_model.stat().st_size,
    )
    assert found.rounds == 2
    for model in found.models:
        assert (model.provider, model.threads) == ("cpu", 1)
        assert {timing.batch for timing in model.timings} | set(model.left_out) == set(BATCHES)
        for timing in model.timings:
            assert 0 < timing.p50_ms <= timing.p90_ms <= timing.p99_ms
        assert model.load.load_ms > 0
    assert all(timing.ratio == 1 for timing in large.timings)
    assert small.timings[0].ratio is not None
    assert small.timings[0].ratio < 1


@pytest.mark.parametrize("batch", [1, 4])
def test_model_of_a_fixed_batch_is_measured(batch: int, tiny_weights: Path, tmp_path: Path) -> None:
    options = ExportOptions(precisions=("fp32",), batch=batch)
    (model,) = export_models(Checkpoint.load(tiny_weights), options)
    path = tmp_path / "fixed.onnx"
    path.write_bytes(model.data)
    (found,) = measure([path], batches=(6,), rounds=1).models
    assert [timing.batch for timing in found.timings] == [1, 6]


def test_threads_are_those_in_effect(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIN_EDGE_THREADS", "3")
    assert measure([tiny_model], batches=(1,), rounds=1).models[0].threads == 3
    assert measure([tiny_model], threads=2, batches=(1,), rounds=1).models[0].threads == 2


def test_machine_is_named(tiny_model: Path) -> None:
    import onnxruntime

    machine = measure([tiny_model], batches=(1,), rounds=1).machine
    assert machine.onnxruntime == onnxruntime.__version__
    assert machine.cpus >= 1
    assert machine.processor
    assert machine.system.split()[0] in ("Linux", "Darwin", "Windows")


# --- loading --------------------------------------------------------------------------------------


def test_memory_is_that_of_a_process_of_its_own(tiny_model: Path) -> None:
    ballast = np.ones(LARGE, np.uint8)  # in this process, which starts the other
    cost = load_cost(tiny_model)
    assert len(ballast) == LARGE
    assert cost.peak_memory_bytes is not None
    assert cost.added_memory_bytes is not None
    assert 0 < cost.added_memory_bytes < cost.peak_memory_bytes < LARGE
    assert cost.load_ms > 0


def test_added_memory_grows_with_the_model(tiny_model: Path) -> None:
    small, large = load_cost(tiny_model), load_cost(DEFAULT_MODEL)
    assert small.added_memory_bytes is not None
    assert large.added_memory_bytes is not None
    assert small.added_memory_bytes < large.added_memory_bytes


def test_modules_in_the_current_folder_are_not_imported(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('a stranger')\n")
    monkeypatch.chdir(tmp_path)
    assert load_cost(tiny_model).load_ms > 0


def test_process_that_fails_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(NinEdgeError, match=r"gone\.onnx: a process of its own .*no such file"):
        load_cost(tmp_path / "gone.onnx")


# --- what is refused ------------------------------------------------------------------------------


def test_unreadable_model_is_named_before_anything_is_measured(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(bench, "load_cost", measured)
    with pytest.raises(ModelFileError, match=r"gone\.onnx"):
        measure([tiny_model, tmp_path / "gone.onnx"])


def test_unknown_provider_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ProviderError, match="tpu"):
        measure([tiny_model], provider="tpu")


def test_a_classifier_is_timed_as_users_call_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify = Classifier(tiny_model)
    sizes: list[int] = []
    whole = Classifier.batch

    def batch(self: Classifier, images: list[Any]) -> Any:
        sizes.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(Classifier, "batch", batch)
    _, (timings,) = time_models([classify], batches=(3,), rounds=2)
    assert set(sizes) == {3}
    assert [timing.calls for timing in timings] == [2 * CALLS, 2 * (CALLS // 3)]

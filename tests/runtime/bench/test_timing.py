"""Timing on a clock that the tests control: figures, rounds, budgets, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nin_edge_runtime import Classifier
from nin_edge_runtime.bench import timing
from nin_edge_runtime.bench.timing import CALLS, interleave, time_calls, time_models

ROUNDING = 1e-6  # relative; sums of a few seconds in double precision


class Clock:
    """Time that passes only when a call is made."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A classifier with given latencies: seconds of a call, by its number and its batch size."""

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
    """A classifier on CUDA, which takes longer when the batch size changes."""

    provider, last = "cuda", 0

    def batch(self, images: list[np.ndarray[Any, Any]]) -> None:
        self.clock.now += 0.01 * (len(images) != self.last)
        self.last = len(images)
        super().batch(images)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=made))
    return made


def test_every_candidate_has_its_turn_in_every_round() -> None:
    turns: list[str] = []
    candidates = {name: lambda name=name: turns.append(name) or len(turns) for name in "abc"}
    found = interleave(candidates, lambda done: done < 2)
    assert turns == list("abcabc")
    assert found == {"a": [1, 4], "b": [2, 5], "c": [3, 6]}


def test_figures_are_the_clocks(clock: Clock) -> None:
    slow = Timed(clock, lambda _, batch: 2e-3 * batch)
    fast = Timed(clock, lambda _, batch: 1e-3 + 5e-4 * batch)
    rounds, timings = time_models([slow, fast], batches=(4,), rounds=3)  # type: ignore[list-item]
    assert rounds == 3
    for found, expected in zip(
        (figures for per_model in timings for figures in per_model),
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


def test_planning_for_a_new_batch_size_is_not_counted(clock: Clock) -> None:
    model = Planning(clock, lambda _, batch: 1e-3 * batch)
    _, (timings,) = time_models([model], batches=(4,), rounds=3)  # type: ignore[list-item]
    assert [timing.p99_ms for timing in timings] == pytest.approx([1.0, 4.0], rel=ROUNDING)


def test_noise_of_a_round_leaves_the_ratio_alone(clock: Clock) -> None:
    # From some moment during the measurement on, everything takes ten times as long.
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


def test_calls_are_timed_in_rounds_until_the_time_is_up(clock: Clock) -> None:
    order: list[str] = []

    def take(name: str, seconds: float) -> None:
        order.append(name)
        clock.now += seconds

    candidates = {name: lambda name=name, s=s: take(name, s) for name, s in (("a", 1), ("b", 2))}
    rounds, times = time_calls(candidates, seconds=10.0, calls=3)
    assert rounds == 1  # of 12 seconds: 4 calls each, the first of which is not counted
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert order == ["a"] * 4 + ["b"] * 4
    rounds, times = time_calls(candidates, seconds=10.0, calls=1, min_rounds=5)
    assert rounds == 5  # of 6 seconds
    assert times == {"a": [1.0] * 5, "b": [2.0] * 5}


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

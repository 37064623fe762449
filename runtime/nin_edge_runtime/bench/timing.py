"""Latency in interleaved rounds: noise on a busy machine then affects all candidates alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias, TypeVar

import numpy as np

from nin_edge_runtime.classifier import Classifier
from nin_edge_runtime.golden import golden_image

BATCHES: Final = (1, 8, 64)
"""Default numbers of images per call."""

SECONDS: Final = 10.0
"""Default time for each model, in seconds."""

CALLS: Final = 10
"""Timed calls per round at batch 1. Larger batches get `CALLS // batch` calls, at least one."""

_LONGEST_CALL: Final = 1.0  # seconds; default batches that take longer are left out
_PICTURES: Final = 8  # different images; a larger batch repeats them

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the step, the amount done and the amount in all."""


@dataclass(frozen=True)
class Timing:
    """Latency of one model at one batch size."""

    batch: int
    """Images per call: a call of the classifier for 1, of its `batch` for more."""
    p50_ms: float
    """Median milliseconds of a call."""
    p90_ms: float
    """90th percentile of the calls, in milliseconds."""
    p99_ms: float
    """99th percentile of the calls, in milliseconds."""
    images_per_second: float
    """Images per call over its median time."""
    ratio: float | None
    """Time over the first model's, median of the rounds; None if that one was not timed."""
    calls: int
    """Calls that were timed."""


def time_models(
    models: Sequence[Classifier],
    *,
    batches: Sequence[int] | None = None,
    rounds: int | None = None,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> tuple[int, list[tuple[Timing, ...]]]:
    """Time classifiers in interleaved rounds, on uint8 arrays of their own size, S x S.

    The arguments are those of `measure`.

    Returns:
        The number of rounds, and each model's timings.
    """
    longest = _LONGEST_CALL if batches is None else float("inf")
    candidates = {}
    for index, classify in enumerate(models):
        calls = _warmed_up(classify, batch_sizes(batches), longest)
        for batch, call in calls.items():
            # CUDA plans its convolutions again whenever the batch size changes.
            wake = call if classify.provider == "cuda" else calls[1]
            count = max(1, CALLS // batch)
            candidates[index, batch] = partial(_time_round, call, count, wake=wake)
    more = _until(rounds, seconds * len(models), progress=progress)
    times = interleave(candidates, more)
    timings: list[tuple[Timing, ...]] = []
    for index in range(len(models)):
        own = {batch: per_round for (model, batch), per_round in times.items() if model == index}
        timings.append(tuple(_timing(batch, own[batch], times.get((0, batch))) for batch in own))
    return len(times[0, 1]), timings


def time_calls(
    candidates: Mapping[_Key, Callable[[], object]],
    *,
    seconds: float,
    calls: int = CALLS,
    min_rounds: int = 1,
) -> tuple[int, dict[_Key, list[float]]]:
    """Time any functions in interleaved rounds.

    In each round, every function is called once without counting it (threads sleep, and caches
    hold another function's data), then `calls` times.

    Args:
        candidates: the functions, by name.
        seconds: time for all of them together.
        calls: timed calls of a function in a round, at least 1.
        min_rounds: rounds that are done even if they take longer.

    Returns:
        The number of rounds, and the seconds of each timed call, by name.
    """
    timed = {key: partial(_time_round, call, calls, wake=call) for key, call in candidates.items()}
    rounds = interleave(timed, _until(None, seconds, min_rounds=min_rounds))
    count = len(next(iter(rounds.values()), []))
    return count, {key: [t for times in rounds[key] for t in times] for key in rounds}


def interleave(
    candidates: Mapping[_Key, Callable[[], _Result]], more: Callable[[int], bool]
) -> dict[_Key, list[_Result]]:
    """Call every candidate once a round, and collect their results.

    Args:
        candidates: the functions, by name.
        more: whether to do another round, given the number of rounds done.
    """
    results: dict[_Key, list[_Result]] = {key: [] for key in candidates}
    done = 0
    while more(done):
        for key, candidate in candidates.items():
            results[key].append(candidate())
        done += 1
    return results


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Median, over the rounds, of one candidate's value over another's of the same round."""
    return statistics.median(value / of for value, of in zip(values, base, strict=True))


def batch_sizes(batches: Sequence[int] | None) -> list[int]:
    """Batch sizes to measure, ascending: those given, or `BATCHES`, and always 1."""
    return sorted({1, *(BATCHES if batches is None else batches)})


def _until(
    rounds: int | None,
    seconds: float,
    *,
    min_rounds: int = 1,
    progress: Progress | None = None,
) -> Callable[[int], bool]:
    """Return `interleave`'s `more`: a number of rounds or, if that is None, of seconds."""
    started, reported = time.perf_counter(), -1

    def more(done: int) -> bool:
        nonlocal reported
        elapsed = time.perf_counter() - started
        goes_on = done < rounds if rounds is not None else done < min_rounds or elapsed < seconds
        if progress and (int(elapsed) > reported or not goes_on):  # printing takes time as well
            reported = int(elapsed)
            if rounds is not None:
                progress("timing, round", done, rounds)
            else:
                total = math.ceil(seconds)
                progress("timing, second", reported if goes_on else total, total)
        return goes_on

    return more


def _warmed_up(
    classify: Classifier, batches: Sequence[int], longest: float
) -> dict[int, Callable[[], object]]:
    """Return calls by batch size, each made a few times: the first ones set up memory.

    Batches above 1 whose call would take longer than `longest` seconds are left out.
    """
    calls: dict[int, Callable[[], object]] = {}
    image_seconds = 0.0
    for batch in batches:
        if batch > 1 and batch * image_seconds > longest:
            continue
        calls[batch] = _call(classify, batch)
        for _ in range(max(2, CALLS // batch)):
            image_seconds = _seconds(calls[batch]) / batch
    return calls


def _call(classify: Classifier, batch: int) -> Callable[[], object]:
    """A call of the classifier on arrays of its own size: nothing is decoded or resized."""
    size = classify.info.preprocessing.size
    pictures = [golden_image(seed, size, size) for seed in range(min(batch, _PICTURES))]
    if batch == 1:
        return partial(classify, pictures[0])
    return partial(classify.batch, [pictures[index % len(pictures)] for index in range(batch)])


def _time_round(
    call: Callable[[], object], count: int, *, wake: Callable[[], object]
) -> list[float]:
    """Seconds of each of a round's calls."""
    wake()  # not counted: threads sleep, and caches hold another model's data
    return [_seconds(call) for _ in range(count)]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _timing(
    batch: int, rounds: Sequence[Sequence[float]], first: Sequence[Sequence[float]] | None
) -> Timing:
    """The figures of one model's rounds, given those of the first model."""
    calls = [seconds for times in rounds for seconds in times]
    p50, p90, p99 = (1e3 * float(value) for value in np.percentile(calls, (50, 90, 99)))
    medians = [statistics.median(times) for times in rounds]
    base = [statistics.median(times) for times in first] if first else None
    return Timing(
        batch=batch,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        images_per_second=1e3 * batch / p50,
        ratio=median_ratio(medians, base) if base else None,
        calls=len(calls),
    )

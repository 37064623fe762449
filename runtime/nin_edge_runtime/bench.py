"""How fast model files are on this machine, and what they take: latency, images/s, load, memory.

It needs what a device has, NumPy and the runtime. Models take turns, so that whatever else the
machine does strikes them alike; loading and memory are measured in fresh processes.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np

import nin_edge_runtime
from nin_edge_runtime import Classifier, NinEdgeError
from nin_edge_runtime.cpu import cpu_features
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.threads import usable_threads

BATCHES: Final = (1, 8, 64)
"""Images a call, where the caller names no numbers."""

SECONDS: Final = 10.0
"""How long each model is timed, where the caller names neither seconds nor rounds."""

CALLS: Final = 10
"""Images a round: calls of one image; as many larger batches as that makes, at least one."""

_LOADS: Final = 3  # processes for each model; their median counts
_LONGEST_CALL: Final = 1.0  # seconds, of a batch that nobody named: it may want memory as well
_PICTURES: Final = 8  # different images; a larger batch repeats them
_CHILD: Final = "import sys; from nin_edge_runtime.bench import _child; _child(*sys.argv[1:])"

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how far it is and where it ends."""


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    processor: str
    """What the processor, or the board, is called."""
    cpus: int
    """CPUs that this process may use."""
    system: str
    """Operating system and architecture."""
    python: str
    """Version of Python."""
    onnxruntime: str
    """Version of ONNX Runtime."""
    numpy: str
    """Version of NumPy."""
    nin_edge: str
    """Version of nin-edge."""


@dataclass(frozen=True)
class Timing:
    """How long one model takes for a call of one batch size."""

    batch: int
    """Images a call: one is a call of the classifier, more are one of its `batch`."""
    p50_ms: float
    """Median milliseconds of a call."""
    p90_ms: float
    """Milliseconds that nine in ten calls stay within."""
    p99_ms: float
    """Milliseconds that 99 in 100 calls stay within."""
    images_per_second: float
    """Images a call over its median time."""
    ratio: float | None
    """Time over the first model's, median of the rounds; None where that was not timed."""
    calls: int
    """Calls that were timed."""


@dataclass(frozen=True)
class Cost:
    """What loading one model takes, in a process of its own."""

    load_ms: float
    """Milliseconds until its classifier is ready; modules are imported before."""
    peak_memory_bytes: int | None
    """Most memory the process ever held, after one image; None where the system does not say."""
    added_memory_bytes: int | None
    """What of it came after the runtime and ONNX Runtime had been imported."""


@dataclass(frozen=True)
class ModelFigures:
    """All that was measured of one model."""

    file: str
    """Its path."""
    bytes: int
    """Its size."""
    precision: str
    """`fp32`, `fp16` or `int8`."""
    size: int
    """S, side of the images that it was given, in pixels."""
    provider: str
    """The provider that was active: `cpu` or `cuda`."""
    threads: int
    """Threads of one inference on the CPU."""
    load: Cost
    """What loading it takes."""
    timings: tuple[Timing, ...]
    """By batch size, ascending."""
    left_out: tuple[int, ...]
    """Batch sizes that nobody named and that take too long here."""


@dataclass(frozen=True)
class Bench:
    """What was measured, of which models, where."""

    machine: Machine
    """The machine."""
    rounds: int
    """Rounds, in each of which every model was called with every batch size."""
    models: tuple[ModelFigures, ...]
    """In the order they were named."""


def measure(
    models: Sequence[Path],
    *,
    provider: str = "auto",
    threads: int | None = None,
    batches: Sequence[int] | None = None,
    rounds: int | None = None,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Bench:
    """Measure models side by side.

    Args:
        models: paths of `.onnx` files, at least one.
        provider: `auto`, `cpu` or `cuda`.
        threads: threads of one inference on the CPU; those that are usable here if None.
        batches: images a call, each at least 1; one image is always measured. `BATCHES` if None,
            without those for which a call takes over a second here.
        rounds: how many; as many as fit into `seconds` if None.
        seconds: how long to time each model; at least one round is done.
        progress: told how far it is.

    Raises:
        ModelFileError: a model cannot be loaded.
        ProviderError: the provider is unknown or not active.
        NinEdgeError: a process to load a model in failed.
    """
    classifiers = [Classifier(path, provider=provider, threads=threads) for path in models]
    costs: list[list[Cost]] = [[] for _ in models]
    for done in range(_LOADS * len(models)):  # in turns, too
        index = done % len(models)
        costs[index].append(load_cost(models[index], provider, threads))
        if progress:
            progress("loading, process", done + 1, _LOADS * len(models))
    count, timings = time_models(
        classifiers, batches=batches, rounds=rounds, seconds=seconds, progress=progress
    )
    wanted = _wanted(batches)
    return Bench(
        machine=this_machine(),
        rounds=count,
        models=tuple(
            ModelFigures(
                file=str(path),
                bytes=path.stat().st_size,
                precision=classify.info.precision,
                size=classify.info.preprocessing.size,
                provider=classify.provider,
                threads=threads or usable_threads(),
                load=_median(cost),
                timings=timed,
                left_out=tuple(sorted(set(wanted) - {timing.batch for timing in timed})),
            )
            for path, classify, cost, timed in zip(models, classifiers, costs, timings, strict=True)
        ),
    )


# --- time -----------------------------------------------------------------------------------------


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
        calls = _warmed_up(classify, _wanted(batches), longest)
        for batch, call in calls.items():
            # CUDA's convolutions are planned anew for another batch size than the last.
            wake = call if classify.provider == "cuda" else calls[1]
            candidates[index, batch] = partial(_round, call, batch, wake=wake)
    budget = seconds * len(models)
    started, told = time.perf_counter(), -1

    def more(done: int) -> bool:
        nonlocal told
        elapsed = time.perf_counter() - started
        goes_on = done < rounds if rounds is not None else not done or elapsed < budget
        if progress and (int(elapsed) > told or not goes_on):  # a terminal takes its time as well
            told = int(elapsed)
            if rounds is not None:
                progress("timing, round", done, rounds)
            else:
                total = math.ceil(budget)
                progress("timing, second", told if goes_on else total, total)
        return goes_on

    found = interleave(candidates, more)
    timings: list[tuple[Timing, ...]] = []
    for index in range(len(models)):
        own = {batch: times for (model, batch), times in found.items() if model == index}
        timings.append(
            tuple(_timing(batch, times, found.get((0, batch))) for batch, times in own.items())
        )
    return len(found[0, 1]), timings


def interleave(
    candidates: Mapping[_Key, Callable[[], _Found]], more: Callable[[int], bool]
) -> dict[_Key, list[_Found]]:
    """What each candidate gives, all of them once a round, so that noise strikes them alike.

    Args:
        candidates: what to call, by name.
        more: whether to go on, told how many rounds are done.
    """
    found: dict[_Key, list[_Found]] = {key: [] for key in candidates}
    done = 0
    while more(done):
        for key, candidate in candidates.items():
            found[key].append(candidate())
        done += 1
    return found


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Median, over the rounds, of one candidate's value over another's of the same round."""
    return statistics.median(value / of for value, of in zip(values, base, strict=True))


def _wanted(batches: Sequence[int] | None) -> list[int]:
    return sorted({1, *(BATCHES if batches is None else batches)})


def _call(classify: Classifier, batch: int) -> Callable[[], object]:
    """A call of the classifier on arrays of its own size: nothing is decoded or resized."""
    size = classify.info.preprocessing.size
    pictures = [golden_image(seed, size, size) for seed in range(min(batch, _PICTURES))]
    if batch == 1:
        return partial(classify, pictures[0])
    return partial(classify.batch, [pictures[index % len(pictures)] for index in range(batch)])


def _warmed_up(
    classify: Classifier, batches: Sequence[int], longest: float
) -> dict[int, Callable[[], object]]:
    """Calls by batch size, ascending, made a few times already: the first ones set up memory.

    Larger batches that would take longer than `longest` seconds are neither made nor given.
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


def _round(call: Callable[[], object], batch: int, *, wake: Callable[[], object]) -> list[float]:
    """Seconds of each of a round's calls."""
    wake()  # not counted: threads sleep, and caches hold another model
    return [_seconds(call) for _ in range(max(1, CALLS // batch))]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _timing(
    batch: int, rounds: Sequence[Sequence[float]], first: Sequence[Sequence[float]] | None
) -> Timing:
    """The figures of a model's rounds, beside the first model's."""
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


# --- loading and memory ---------------------------------------------------------------------------


def load_cost(model: Path, provider: str = "auto", threads: int | None = None) -> Cost:
    """What loading a model takes, measured in a fresh process.

    Raises:
        NinEdgeError: the process failed.
    """
    done = subprocess.run(
        # -P: a module that lies in the current folder is not imported.
        [sys.executable, "-P", "-c", _CHILD, model.absolute(), provider, str(threads or "")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NinEdgeError(f"{model}: a process of its own could not load it ({reason})")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _child(model: str, provider: str, threads: str) -> None:
    """Load a model in this process, a fresh one, and write what that takes to standard output."""
    import onnxruntime  # noqa: F401  # in the memory before, and not in the time

    before = _peak_memory()
    started = time.perf_counter()
    classify = Classifier(model, provider=provider, threads=int(threads) if threads else None)
    load = time.perf_counter() - started
    size = classify.info.preprocessing.size
    classify(np.zeros((size, size, 3), np.uint8))  # drawing a picture would take memory of its own
    after = _peak_memory()
    added = None if before is None or after is None else after - before
    sys.stdout.write(json.dumps(asdict(Cost(1e3 * load, after, added))))


def _peak_memory() -> int | None:
    """Most resident memory that this process ever had, in bytes; None where that is not known."""
    try:
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # on Windows
        return None
    # On Linux a new process starts with its parent's; hence the look at /proc before.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _median(costs: Sequence[Cost]) -> Cost:
    """Each figure's median."""
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    added = [cost.added_memory_bytes for cost in costs if cost.added_memory_bytes is not None]
    return Cost(
        load_ms=statistics.median(cost.load_ms for cost in costs),
        peak_memory_bytes=statistics.median_low(peaks) if peaks else None,
        added_memory_bytes=statistics.median_low(added) if added else None,
    )


# --- the machine ----------------------------------------------------------------------------------


def this_machine() -> Machine:
    """This machine, and the versions that figures depend on."""
    import onnxruntime

    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    return Machine(
        processor=processor_name(),
        cpus=len(affinity(0)) if affinity else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        numpy=np.__version__,
        nin_edge=nin_edge_runtime.__version__,
    )


def processor_name() -> str:
    """What this machine's processor, or a board computer itself, is called."""
    return cpu_features().model or platform.processor() or platform.machine()

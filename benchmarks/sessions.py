"""What do the options of a session cost: threads that spin, no memory arena?

    python -m benchmarks.sessions [MODEL]

Latency and CPU time, back to back and with the pauses of a camera loop; then memory. Each setting
has a process of its own, since threads that spin take CPU time from whatever is measured next.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime

from benchmarks._result import Row, answer, parser
from nin_edge_runtime import DEFAULT_MODEL
from nin_edge_runtime.bench import interleave, median_ratio
from nin_edge_runtime.model_file.read import read_model
from nin_edge_runtime.providers import create_session

PAUSE: Final = 0.030  # seconds between two images of a camera, about
SETTLE: Final = 0.1  # seconds in which threads that spin go to sleep
ROUNDS, CALLS = 30, 50
PAUSED_ROUNDS, PAUSED_CALLS = 10, 20
MEMORY_ROUNDS: Final = 3

SETTINGS: Final = {"default": (False, True), "no_arena": (False, False), "spin": (True, True)}
"""(spin, arena) by column; the others are compared with the first."""


def _session(
    model: Path, threads: int, spin: bool, arena: bool
) -> tuple[onnxruntime.InferenceSession, np.ndarray]:
    """A session, and 64 images of its network's size."""
    data, info = read_model(model)
    size = info.preprocessing.size
    images = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), dtype=np.uint8)
    session, _ = create_session(
        data, model.name, provider="cpu", threads=threads, spin=spin, arena=arena
    )
    return session, images


def _latency(pipe: Connection, model: Path, threads: int, spin: bool, arena: bool) -> None:
    """Answer each (calls, pause) with the seconds and the CPU seconds of a call."""
    session, images = _session(model, threads, spin, arena)
    for calls, pause in iter(pipe.recv, None):
        spent, cpu = 0.0, time.process_time()
        for _ in range(calls):
            started = time.perf_counter()
            session.run(None, {"image": images[:1]})
            spent += time.perf_counter() - started
            if pause:
                time.sleep(pause)
        pipe.send((spent / calls, (time.process_time() - cpu) / calls))


def _memory(pipe: Connection, model: Path, arena: bool) -> None:
    """Send the megabytes that a session adds to a process, step by step."""
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * page / 1e6

    onnxruntime.get_available_providers()
    before = resident()
    session, images = _session(model, 1, False, arena)
    steps = {"when started": resident() - before}
    for name, count, times in (
        ("after 200 single images", 1, 200),
        ("after 20 batches of 64", 64, 20),
        ("after 200 single images again", 1, 200),
    ):
        for _ in range(times):
            session.run(None, {"image": images[:count]})
        steps[name] = resident() - before
    pipe.send(steps)


@contextmanager
def _process(target: object, *arguments: object) -> Iterator[Connection]:
    """A process that runs a function, and the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)  # type: ignore[arg-type]
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def _row(measure: str, unit: str, values: Mapping[str, Sequence[float]]) -> Row:
    """The default's median and each other setting's ratio to it; None where not measured."""
    base = values["default"]
    others = {
        name: median_ratio(values[name], base) if name in values else None
        for name in SETTINGS
        if name != "default"
    }
    return {"measure": measure, "unit": unit, "default": statistics.median(base), **others}


def latency_rows(model: Path, threads: int, pause: float) -> list[Row]:
    """Latency and CPU time of one image, in interleaved rounds."""
    rounds, calls = (PAUSED_ROUNDS, PAUSED_CALLS) if pause else (ROUNDS, CALLS)

    def measure(pipe: Connection) -> tuple[float, float]:
        pipe.send((calls, pause))
        answered: tuple[float, float] = pipe.recv()
        time.sleep(SETTLE)
        return answered

    with ExitStack() as stack:
        candidates = {}
        for name, setting in SETTINGS.items():
            pipe = stack.enter_context(_process(_latency, model, threads, *setting))
            candidates[name] = lambda pipe=pipe: measure(pipe)
        interleave(candidates, lambda done: done < 2)  # warm up
        measured = interleave(candidates, lambda done: done < rounds)
    loop = f"{1e3 * pause:g} ms between calls" if pause else "back to back"
    condition = f"{threads} thread{'s' if threads > 1 else ''}, {loop}"
    return [
        _row(
            f"{quantity}, {condition}",
            "ms",
            {name: [1e3 * pair[index] for pair in pairs] for name, pairs in measured.items()},
        )
        for index, quantity in enumerate(("latency", "CPU time of a call"))
    ]


def memory_rows(model: Path) -> list[Row]:
    """Megabytes that a session adds to its process, with and without an arena."""

    def measure(arena: bool) -> dict[str, float]:
        with _process(_memory, model, arena) as pipe:
            steps: dict[str, float] = pipe.recv()
            return steps

    candidates = {"default": lambda: measure(True), "no_arena": lambda: measure(False)}
    measured = interleave(candidates, lambda done: done < MEMORY_ROUNDS)
    return [
        _row(
            f"memory of a session, {step}",
            "MB",
            {name: [steps[step] for steps in runs] for name, runs in measured.items()},
        )
        for step in measured["default"][0]
    ]


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, nargs="?", default=DEFAULT_MODEL)
    options = arguments.parse_args()
    rows = [
        row
        for threads, pause in product((1, 2), (0.0, PAUSE))
        for row in latency_rows(options.model, threads, pause)
    ]
    rows += memory_rows(options.model)
    answer(
        "sessions",
        rows,
        rounds=f"{ROUNDS} rounds of {CALLS} calls, with pauses {PAUSED_ROUNDS} of {PAUSED_CALLS}, "
        f"{MEMORY_ROUNDS} processes for memory",
        packages=("onnxruntime", "numpy"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

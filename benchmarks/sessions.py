"""What do a session's options cost: threads that spin or not, a memory arena or not?

    python -m benchmarks.sessions [MODEL]

Latency and CPU time, back to back and with the pauses of a camera loop; then memory. Every setting
has a process of its own, since threads that spin take CPU time from whatever is measured next.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.machine import describe, report
from nin_edge_runtime import DEFAULT_MODEL
from nin_edge_runtime.model_file.read import read_model
from nin_edge_runtime.providers import create_session

PAUSE = 0.030  # seconds between two images of a camera, about
SETTLE = 0.1  # seconds in which threads that spin give up
ROUNDS, CALLS = 60, 50
PAUSED_ROUNDS, PAUSED_CALLS = 10, 30
MEMORY_ROUNDS = 5

# (spin, arena); the first is what the others are compared with.
SETTINGS = {
    f"{'spin' if spin else 'no spin'}, {'arena' if arena else 'no arena'}": (spin, arena)
    for spin, arena in product((False, True), (True, False))
}


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
    steps = {"started": resident() - before}
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


def _compare_latency(model: Path, threads: int, pause: float) -> None:
    rounds, calls = (PAUSED_ROUNDS, PAUSED_CALLS) if pause else (ROUNDS, CALLS)
    spent: dict[str, list[float]] = {name: [] for name in SETTINGS}
    cpu: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(_process(_latency, model, threads, *setting))
            for name, setting in SETTINGS.items()
        }
        for turn in range(-2, rounds):  # two to warm up
            for name, pipe in workers.items():
                pipe.send((calls, pause))
                seconds, cpu_seconds = pipe.recv()
                time.sleep(SETTLE)
                if turn >= 0:
                    spent[name].append(seconds)
                    cpu[name].append(cpu_seconds)
    loop = f"{1e3 * pause:g} ms between calls" if pause else "back to back"
    print(f"\n{threads} threads, {loop}, {calls} calls a round: latency, then CPU time of a call")
    report(spent)
    report(cpu)


def _compare_memory(model: Path) -> None:
    steps: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for _ in range(MEMORY_ROUNDS):
        for arena, found in steps.items():
            with _process(_memory, model, arena) as pipe:
                found.append(pipe.recv())
    print(f"\nmegabytes in memory that a session adds, median of {MEMORY_ROUNDS} processes")
    print(f"{'':32} {'arena':>9} {'no arena':>9}")
    for name in steps[True][0]:
        columns = (statistics.median(one[name] for one in found) for found in steps.values())
        print(f"{name:32} " + " ".join(f"{megabytes:9.1f}" for megabytes in columns))


def main() -> None:
    """Measure and print."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_MODEL
    print(describe("onnxruntime", "numpy"), model.name)
    for threads, pause in product((1, 2), (0.0, PAUSE)):
        _compare_latency(model, threads, pause)
    _compare_memory(model)


if __name__ == "__main__":
    main()

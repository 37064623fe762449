"""How much does a second process add to a training, where each has one thread?

    python -m benchmarks.machines [--rounds N] [--seconds SECONDS]

Every process is on a machine of its own as far as Linux can imitate one (`_machines.py`), and on a
processor of its own; gradients go over TCP. Each trains on 16 images a step, of 128 x 128. Two
processes that know nothing of each other are the ceiling: what the hardware allows. Needs root.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from benchmarks._machines import ENVIRONMENT, Machines, refusal
from benchmarks._result import Row, answer, parser
from nin_edge.checkpoint import DataSource
from nin_edge.data import open_dataset
from nin_edge.files import write_atomically
from nin_edge.network import NetworkConfig
from nin_edge.training.recipe import Recipe
from nin_edge.training.setup import Machine, Setup
from nin_edge.training.workers import joined
from nin_edge_runtime.bench import interleave, median_ratio

ROUNDS: Final = 5
SECONDS: Final = 10.0
BATCH: Final = 16
SIDE: Final = 128
IMAGES: Final = 64  # of each class
PATIENCE: Final = 300.0  # seconds to wait for a process, on a busy machine

ALONE, APART, TOGETHER = "one process", "two, each by itself", "two, one training"
NAMES: Final = {ALONE: 1, APART: 2, TOGETHER: 2}
"""The trainings, and how many processes each has."""


def step(folder: Path, name: str, processor: int, rounds: int, seconds: float) -> None:
    """One process of a training: in each of its turns, it writes the images/s of the training."""
    os.sched_setaffinity(0, {processor})
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as (workers, device):
        dataset = open_dataset(
            folder / "data", size=SIDE, cache=folder / f"cache-{name}{processor}"
        )
        setup = Setup.of(
            dataset,
            NetworkConfig.from_preset("nin-photo", classes=len(dataset.labels), size=SIDE),
            Recipe(epochs=1000, batch_size=BATCH * workers.size, low_resolution=0.0),
            DataSource("noise"),
            folder / "run",
            location=None,
            init=None,
            teachers=(),
            latency=None,
            machine=Machine(workers, device),
        )
        learner, batches = setup.make_learner(), setup.make_batches()
        learner.train_mode()
        number = 0
        for turn in range(-1, rounds):  # the first one warms up
            until((folder / f"{name} {turn}").exists)
            started, first, ended = time.monotonic(), number, False
            while not ended:
                learner.step(number, *batches.get(number))
                number += 1
                (ended,) = workers.any(turn < 0 or time.monotonic() - started > seconds)
            rate = (number - first) * BATCH * workers.size / (time.monotonic() - started)
            write_atomically(folder / f"{name} {turn} {processor}", json.dumps(rate).encode())


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("a process of the benchmark has not answered")
        time.sleep(0.02)


def start(machines: Machines, folder: Path, rounds: int, seconds: float) -> None:
    """Start all processes, which then wait for their turns; they end with the machines."""
    for name, processes in NAMES.items():
        for number in range(processes):
            script = ("-m", "benchmarks.machines", "--step", str(folder), name, str(number))
            arguments = [*script, "--rounds", str(rounds), "--seconds", str(seconds)]
            command = ["ip", "netns", "exec", machines.names[number], sys.executable, *arguments]
            if name == TOGETHER:
                command = machines.torchrun(number, processes, *arguments)
            environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
            with (folder / "log").open("ab") as log:
                subprocess.Popen(command, env=environment, stderr=log)


def turn(folder: Path, name: str, numbers: Iterator[int]) -> float:
    """Images/s of all processes of a training in its next turn, while the others wait."""
    own = f"{name} {next(numbers)}"
    (folder / own).touch()
    answers = [folder / f"{own} {number}" for number in range(NAMES[name])]
    until(lambda: all(path.exists() for path in answers))
    rates = [float(json.loads(path.read_bytes())) for path in answers]
    return rates[0] if name == TOGETHER else sum(rates)


def rows(values: Mapping[str, Sequence[float]]) -> list[Row]:
    """The table: throughput of each candidate, and its ratio to one process and to the ceiling."""
    return [
        {
            "training": name,
            "images_per_second": sorted(own)[len(own) // 2],
            "ratio": median_ratio(own, values[ALONE]),
            "ceiling_ratio": None if name == ALONE else median_ratio(own, values[APART]),
        }
        for name, own in values.items()
    ]


def make_images(folder: Path) -> None:
    """Noise in two classes: what is on an image does not change its time."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(IMAGES):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="for each measurement")
    arguments.add_argument("--step", nargs=3, help="used by the script itself")
    options = arguments.parse_args()
    if options.step:
        folder, name, processor = options.step
        step(Path(folder), name, int(processor), options.rounds, options.seconds)
        return
    if reason := refusal():
        raise SystemExit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no namespace stays
    with TemporaryDirectory() as parent, Machines(2) as machines:
        folder = Path(parent)
        make_images(folder / "data")
        start(machines, folder, options.rounds, options.seconds)
        turns = {name: partial(turn, folder, name, count(-1)) for name in NAMES}
        try:
            interleave(turns, lambda done: done < 1)  # warms up
            values = interleave(turns, lambda done: done < options.rounds)
        except TimeoutError as error:
            raise SystemExit(f"{error}\n{(folder / 'log').read_text()[-3000:]}") from error
    answer(
        "machines",
        rows(values),
        rounds=f"{options.rounds} interleaved rounds of {options.seconds:g} s",
        packages=("torch",),
        output=options.output,
    )


if __name__ == "__main__":
    main()

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
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from benchmarks._machines import ENVIRONMENT, Machines, refusal
from benchmarks._result import Row, answer, parser
from nin_edge.checkpoint import DataSource
from nin_edge.data import open_dataset
from nin_edge.network import NetworkConfig
from nin_edge.training.recipe import Recipe
from nin_edge.training.setup import Machine, Setup
from nin_edge.training.workers import joined
from nin_edge_runtime.bench import interleave, median_ratio

ROUNDS: Final = 5
SECONDS: Final = 10.0
WARM_UP: Final = 3  # steps
BATCH: Final = 16
SIDE: Final = 128
IMAGES: Final = 64  # of each class
PATIENCE: Final = 300.0  # seconds for processes to start, on a busy machine

NAMES: Final = {
    "alone": "one process",
    "apart": "two, each by itself",
    "together": "two, one training",
}


def step(folder: Path, processor: int, processes: int, seconds: float) -> None:
    """One process of a training: writes its images/s, or the images/s of all that train together.

    It says when it is ready, and begins when all are.
    """
    os.sched_setaffinity(0, {processor})
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as (workers, device):
        dataset = open_dataset(folder / "data", size=SIDE, cache=folder / f"cache{processor}")
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
        for number in range(WARM_UP):
            learner.step(number, *batches.get(number))
        (folder / f"ready{processor}").touch()
        while len(list(folder.glob("ready*"))) < processes:
            time.sleep(0.01)
        started, number, ended = time.monotonic(), WARM_UP, False
        while not ended:
            learner.step(number, *batches.get(number))
            number += 1
            (ended,) = workers.any(time.monotonic() - started > seconds)
        rate = (number - WARM_UP) * BATCH * workers.size / (time.monotonic() - started)
    (folder / f"rate{processor}").write_text(json.dumps(rate))


def measure(machines: Machines, data: Path, seconds: float, name: str) -> float:
    """Images/s of all processes.

    Args:
        machines: two machines.
        data: the images.
        seconds: how long.
        name: a key of `NAMES`.
    """
    processes = 1 if name == "alone" else 2
    with TemporaryDirectory() as parent:
        folder = Path(parent)
        (folder / "data").symlink_to(data)
        running = []
        for number in range(processes):
            script = ("-m", "benchmarks.machines", "--step", str(folder), str(number))
            arguments = [*script, str(processes), "--seconds", str(seconds)]
            command = ["ip", "netns", "exec", machines.names[number], sys.executable, *arguments]
            if name == "together":
                command = machines.torchrun(number, 2, *arguments)
            environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
            running.append(subprocess.Popen(command, env=environment))
        if codes := [process.wait(PATIENCE) for process in running if process.wait(PATIENCE)]:
            raise RuntimeError(f"{NAMES[name]}: exit codes {codes}")
        rates = [json.loads((folder / f"rate{number}").read_text()) for number in range(processes)]
    return float(rates[0] if name == "together" else sum(rates))


def rows(values: Mapping[str, Sequence[float]]) -> list[Row]:
    """The table: throughput of each candidate, and its ratio to one process and to the ceiling."""
    return [
        {
            "training": NAMES[name],
            "images_per_second": sorted(own)[len(own) // 2],
            "ratio": median_ratio(own, values["alone"]),
            "ceiling_ratio": None if name == "alone" else median_ratio(own, values["apart"]),
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
        folder, processor, processes = options.step
        step(Path(folder), int(processor), int(processes), options.seconds)
        return
    if reason := refusal():
        raise SystemExit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no namespace stays
    with TemporaryDirectory() as folder, Machines(2) as machines:
        make_images(Path(folder) / "data")
        run = partial(measure, machines, Path(folder) / "data", options.seconds)
        candidates = {name: partial(run, name) for name in NAMES}
        values = interleave(candidates, lambda done: done < options.rounds)
    answer(
        "machines",
        rows(values),
        rounds=f"{options.rounds} interleaved rounds of {options.seconds:g} s",
        packages=("torch",),
        output=options.output,
    )


if __name__ == "__main__":
    main()

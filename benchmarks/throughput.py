"""How fast is training, against a bare PyTorch loop over one fixed batch, and in what memory?

    python -m benchmarks.throughput DATA [WIDTH]

The bare loop has the same network, loss and optimisers over random tensors. Both compute in
bfloat16 where the device has it, in turns, on a GPU where there is one. On a CPU each has a process
of its own, the bare loop also one with the C library's own way with freed memory; and memory is the
peak of a process that trains two epochs of some images, small ones and whole ones, scores them, and
has read every image of the cache.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from benchmarks.machine import describe

if TYPE_CHECKING:
    from nin_edge.data import Dataset
    from nin_edge.training.recipe import Recipe

CUDA: Final = torch.cuda.is_available()
DEVICE: Final = "cuda" if CUDA else "cpu"
BF16: Final = CUDA or bool(
    {"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split())
)
ROUNDS: Final = 3
WARM_UP: Final = 11  # steps that are not counted; `train` reports after every tenth
STEPS: Final = 180 if CUDA else 30  # within an epoch
SOME: Final = 1_000  # images of the run whose memory is measured


def bare(width: float, *, keep: bool) -> float:
    """Images a second of the loop without data."""
    from nin_edge.network import NetworkConfig, NiN
    from nin_edge.training.memory import keep_memory
    from nin_edge.training.optimizers import make_optimizers
    from nin_edge.training.recipe import Recipe

    if keep:
        keep_memory()
    recipe = Recipe(bf16=BF16)
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=10, width=width))
    network = network.to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = make_optimizers(network, recipe)
    images = torch.randn(recipe.batch_size, 3, 32, 32, device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (recipe.batch_size,), device=DEVICE)
    measure = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            started = finished()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=BF16):
            logits = network(images)
        network.zero_grad(set_to_none=True)
        measure(logits.float(), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
    return recipe.batch_size * STEPS / (finished() - started)


def finished() -> float:
    """Seconds on the clock once the device has done what it was given."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def real(data: Path, width: float) -> float:
    """Images a second of `train` over the same steps, within an epoch."""
    from nin_edge.data import open_dataset
    from nin_edge.training.errors import TrainingStoppedError
    from nin_edge.training.recipe import Recipe

    dataset = open_dataset(data, size=32)
    recipe = Recipe(bf16=BF16, low_resolution=0.0)
    reports: list[float] = []
    steps = itertools.count(1)
    with suppress(TrainingStoppedError):
        run(
            *(dataset, recipe, width),
            report=lambda _: reports.append(time.perf_counter()),
            should_stop=lambda: next(steps) > WARM_UP + STEPS,
        )
    # After step 1, 11, 21 and so on, each once the device is done.
    return recipe.batch_size * STEPS / (reports[1 + STEPS // 10] - reports[1])


def memory(data: Path, width: float) -> float:
    """Peak bytes of training on some images, from the first step to the last picture."""
    from nin_edge.data import open_dataset
    from nin_edge.training.recipe import Recipe

    dataset = open_dataset(data, size=32)
    part = replace(
        dataset,
        train=np.random.default_rng(0).permutation(dataset.train)[:SOME],
        test=dataset.test[:: len(dataset.test) // SOME],
    )
    run(part, Recipe(bf16=BF16, epochs=2), width)
    dataset.images.max()  # touches the whole cache, as an epoch of all images would
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB on Linux


def run(dataset: Dataset, recipe: Recipe, width: float, **told: Any) -> None:
    """Train to a folder that is deleted."""
    from nin_edge.checkpoint import DataSource
    from nin_edge.network import NetworkConfig
    from nin_edge.training.loop import train
    from nin_edge.training.memory import keep_memory

    keep_memory()
    config = NetworkConfig.from_preset("nin-bn", classes=len(dataset.labels), width=width)
    with tempfile.TemporaryDirectory() as folder:
        train(dataset, config, recipe, DataSource("speed"), Path(folder), device=DEVICE, **told)


def main() -> None:
    """Measure and print."""
    data, width = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "0.5"
    names = ["bare", "train"] if CUDA else ["bare", "train", "bare, memory given back"]
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, found in rates.items():
            found.append(measure(name, data, width) if CUDA else step(name, data, width))
    on = torch.cuda.get_device_name() if CUDA else "CPU"
    print(describe("torch"), f"on {on}, width {width}")
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, rates["bare"], strict=True))
        print(f"{name:28} {statistics.median(found):8,.0f} images/s  ratio {ratio:.3f}")
    if not CUDA:
        print(f"peak memory of training: {step('memory', data, width) / 1e6:,.0f} MB")


def measure(name: str, data: str, width: str) -> float:
    """What one of the names above, or `memory`, comes to in this process."""
    if name == "train":
        return real(Path(data), float(width))
    if name == "memory":
        return memory(Path(data), float(width))
    return bare(float(width), keep=name == "bare")


def step(name: str, data: str, width: str) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--step", name, data, width]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    else:
        print(measure(*sys.argv[2:5]))

"""How fast is training, against a bare PyTorch loop over one fixed batch, and in what memory?

    python -m benchmarks.throughput DATA [--width 0.25]

The bare loop has the same network, loss and optimisers over random tensors. Both compute in
bfloat16 where the device has it, in turns, on a GPU where there is one. On a CPU each has a process
of its own. Memory is the peak of a process that trains two epochs of 1,000 images, low-resolution
steps and full ones, scores them, and has read every image of the cache.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from benchmarks._measure import compare, run_step
from benchmarks._result import Row, answer, parser
from nin_edge_runtime.cpu import cpu_flags

if TYPE_CHECKING:
    from nin_edge.data import Dataset
    from nin_edge.training.recipe import Recipe

CUDA: Final = torch.cuda.is_available()
DEVICE: Final = "cuda" if CUDA else "cpu"
ROUNDS: Final = 3
WARM_UP: Final = 11  # steps that are not counted; `train` reports after every tenth
STEPS: Final = 180 if CUDA else 20  # that are, within an epoch
SOME: Final = 1_000  # images of the run whose memory is measured


def has_bf16() -> bool:
    """Whether the device computes bfloat16 natively."""
    return CUDA or bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def bare(width: float, *, keep: bool) -> float:
    """Images a second of the loop without data; `keep` the memory that a step frees, or not."""
    from nin_edge.network import NetworkConfig, NiN
    from nin_edge.training.memory import keep_memory
    from nin_edge.training.optimizers import make_optimizers
    from nin_edge.training.recipe import Recipe

    if keep:
        keep_memory()
    recipe = Recipe(bf16=has_bf16())
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=10, width=width))
    network = network.to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = make_optimizers(network, recipe)
    images = torch.randn(recipe.batch_size, 3, 32, 32, device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (recipe.batch_size,), device=DEVICE)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            started = finished()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=recipe.bf16):
            logits = network(images)
        network.zero_grad(set_to_none=True)
        loss(logits.float(), targets).backward()
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
    recipe = Recipe(bf16=has_bf16(), low_resolution=0.0)
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
    run(part, Recipe(bf16=has_bf16(), epochs=2), width)
    dataset.images.max()  # touches the whole cache, as an epoch of all images would
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB on Linux


def opening(data: Path, cache: Path) -> float:
    """Seconds to open the data set with its cache in a folder, after imports."""
    from nin_edge.data import open_dataset

    started = time.perf_counter()
    open_dataset(data, size=32, cache=cache)
    return time.perf_counter() - started


def run(dataset: Dataset, recipe: Recipe, width: float, **options: Any) -> None:
    """Train to a folder that is deleted."""
    from nin_edge.checkpoint import DataSource
    from nin_edge.network import NetworkConfig
    from nin_edge.training.loop import train
    from nin_edge.training.memory import keep_memory
    from nin_edge.training.setup import Machine

    keep_memory()
    config = NetworkConfig.from_preset("nin-bn", classes=len(dataset.labels), width=width)
    with tempfile.TemporaryDirectory() as folder:
        train(
            dataset,
            config,
            recipe,
            DataSource("speed"),
            Path(folder),
            machine=Machine(device=torch.device(DEVICE)),
            **options,
        )


def step(name: str, data: str, argument: str) -> float:
    """One measurement in this process: `open`, `train`, `memory`, `bare` or `bare-default`."""
    if name == "open":
        return opening(Path(data), Path(argument))
    width = float(argument)
    if name == "train":
        return real(Path(data), width)
    return memory(Path(data), width) if name == "memory" else bare(width, keep=name == "bare")


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("data")
    arguments.add_argument("--width", default="0.25")
    options = arguments.parse_args()
    measure = step if CUDA else partial(run_step, "benchmarks.throughput")
    with tempfile.TemporaryDirectory() as cache:
        decoded, again = (measure("open", options.data, cache) for _ in range(2))
    candidates = {
        "bare PyTorch loop": partial(measure, "bare", options.data, options.width),
        "nin-edge train": partial(measure, "train", options.data, options.width),
    }
    if not CUDA:
        slow = "bare PyTorch loop, freed memory given back (glibc's default)"
        candidates[slow] = partial(measure, "bare-default", options.data, options.width)
    rates = compare(candidates, ROUNDS, warm_up=0)
    rows: list[Row] = [
        {"loop": name, "images_per_second": rate.median, "ratio": rate.ratio}
        for name, rate in rates.items()
    ]
    notes = [
        f"Opening the data set: {decoded:.1f} s to decode it and fill the cache, {again:.2f} s "
        "from the cache."
    ]
    if not CUDA:
        peak = measure("memory", options.data, options.width)
        notes.append(f"Peak memory of a training process: {peak / 1e6:,.0f} MB.")
    device = torch.cuda.get_device_name() if CUDA else "CPU"
    answer(
        "throughput",
        rows,
        rounds=f"{ROUNDS} rounds of {STEPS} steps, width {options.width}, "
        f"{'bf16' if has_bf16() else 'fp32'} on {device}",
        packages=("torch", "numpy"),
        notes=notes,
        output=options.output,
    )


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    else:
        print(json.dumps(step(*sys.argv[2:5])))

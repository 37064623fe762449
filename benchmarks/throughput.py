"""How fast is training, against a bare PyTorch loop over one fixed batch, and in what memory?

    python -m benchmarks.throughput DATA [WIDTH]

The bare loop has the same network, loss and optimisers over random tensors. Both compute in
bfloat16 where the processor has it, in turns, each in a process of its own; the bare loop also with
the C library's own way with freed memory. Memory is a process's peak, imports and the cached images
that it touched included.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.machine import describe

BF16: Final = bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
ROUNDS: Final = 3
STEPS: Final = 20
WARM_UP: Final = 3  # steps that are not counted


def bare(width: float, *, keep: bool) -> float:
    """Images a second of the loop without data."""
    import torch
    from torch import nn

    from nin_edge.memory import keep_memory
    from nin_edge.network import NetworkConfig, NiN
    from nin_edge.recipe import Recipe, make_optimizers

    if keep:
        keep_memory()
    recipe = Recipe(bf16=BF16)
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=10, width=width))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = make_optimizers(network, recipe)
    images = torch.randn(recipe.batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (recipe.batch_size,))
    measure = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16):
            logits = network(images)
        network.zero_grad(set_to_none=True)
        measure(logits.float(), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
    return recipe.batch_size * STEPS / (time.perf_counter() - started)


def real(data: Path, width: float) -> float:
    """Images a second of `train`, from its own report, within an epoch."""
    from nin_edge.checkpoint import DataSource
    from nin_edge.datasets import open_dataset
    from nin_edge.memory import keep_memory
    from nin_edge.network import NetworkConfig
    from nin_edge.recipe import Recipe
    from nin_edge.train import Progress, TrainingStoppedError, train

    keep_memory()
    seen: list[Progress] = []
    steps = 0

    def enough() -> bool:
        nonlocal steps
        steps += 1
        return steps == 2 * STEPS + 1  # the report of that step: the first ones weigh less

    config = NetworkConfig.from_preset("nin-bn", classes=10, width=width)
    dataset = open_dataset(data, size=32)
    with tempfile.TemporaryDirectory() as run:
        try:
            recipe = Recipe(bf16=BF16, small_images=0.0)
            train(
                dataset,
                config,
                recipe,
                DataSource("speed"),
                Path(run),
                report=seen.append,
                should_stop=enough,
            )
        except TrainingStoppedError:
            pass
    return seen[-1].images_per_second


def main() -> None:
    """Measure and print."""
    data, width = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "0.5"
    rates: dict[str, list[float]] = {"bare": [], "train": [], "bare, memory given back": []}
    peaks: dict[str, list[float]] = {name: [] for name in rates}
    for _ in range(ROUNDS):
        for name in rates:
            command = [sys.executable, "-m", "benchmarks.throughput", "--step", name, data, width]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rate, peak = map(float, done.stdout.split())
            rates[name].append(rate)
            peaks[name].append(peak)
    print(describe("torch"), f"width {width}")
    for name, each in rates.items():
        ratio = statistics.median(a / b for a, b in zip(each, rates["bare"], strict=True))
        rate, peak = statistics.median(each), statistics.median(peaks[name])
        print(f"{name:28} {rate:8,.0f} images/s  ratio {ratio:.3f}  {peak / 1e3:,.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    else:
        name, data, width = sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
        rate = real(data, width) if name == "train" else bare(width, keep=name == "bare")
        print(rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # kB

"""Which recipe is worth having? Trains the same network by several, within the same multiply-adds.

    python -m benchmarks.recipe DATA [--width 0.25] [--epochs 6] [--seeds 2] [NAME...]

The test split is not looked at: 5,000 of the images to fit join the hold-out, and the accuracy at
the end of training is that over all of these. DATA is the archive of docs/training.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.machine import describe
from nin_edge.checkpoint import DataSource
from nin_edge.cli.train import keep_memory
from nin_edge.datasets import Dataset, open_dataset
from nin_edge.network import NetworkConfig
from nin_edge.recipe import Recipe
from nin_edge.train import Progress, train

HELD_OUT: Final = 5000

SGD: Final = Recipe(muon_rate=0.0, batch_size=128, warmup=0.2)
RECIPES: Final = {
    "SGD, batch 128": SGD,
    "SGD, batch 250": replace(SGD, batch_size=250),
    "Muon": Recipe(),
    "Muon at half the rate": Recipe(muon_rate=0.2),
    "Muon at twice the rate": Recipe(muon_rate=0.8),
    "Muon, warmup 0.2": Recipe(warmup=0.2),
    "Muon, label smoothing 0.1": Recipe(label_smoothing=0.1),
}


def _split(dataset: Dataset) -> Dataset:
    """The data set with a larger hold-out, and without its test images."""
    order = np.random.default_rng(12345).permutation(dataset.fit)
    held = np.sort(np.concatenate([order[:HELD_OUT], dataset.holdout]))
    return replace(dataset, fit=np.sort(order[HELD_OUT:]), holdout=held, test=dataset.test[:0])


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RECIPES)}; all if none is given")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    keep_memory()
    dataset = _split(open_dataset(options.data, size=32))
    config = NetworkConfig.from_preset("nin-bn", classes=10, width=options.width)
    print(describe("torch"), f"{torch.get_num_threads()} threads")
    print(f"width {options.width:g}, {options.epochs} epochs, {len(dataset.fit):,} images to fit, ")
    print(f"{len(dataset.holdout):,} held out, {options.seeds} seeds")
    for name in options.names or RECIPES:
        scores: list[float] = []
        last: list[Progress] = []
        for seed in range(options.seeds):
            recipe = replace(RECIPES[name], epochs=options.epochs, bf16=True, seed=seed)
            with tempfile.TemporaryDirectory() as run:
                train(
                    dataset, config, recipe, DataSource("held out"), Path(run), report=last.append
                )
            assert last[-1].holdout_top1 is not None  # the last report ends an epoch
            scores.append(last[-1].holdout_top1)
        each = ", ".join(f"{score:.2%}" for score in scores)
        rate = last[-1].images_per_second
        print(f"{name:28} {statistics.mean(scores):.2%} ({each})  {rate:,.0f} images/s", flush=True)


if __name__ == "__main__":
    main()

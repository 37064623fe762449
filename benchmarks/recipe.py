"""Which recipe is worth having? Trains the same network by several, within the same multiply-adds.

    python -m benchmarks.recipe DATA [NAME...] [--width 0.25] [--epochs 6] [--seeds 2] [--bf16]
        [--teacher WEIGHTS]... [--device cpu]

The test split is not looked at: 5,000 of the images to fit join the hold-out, and the accuracy at
the end of training is that over all of these, and with each image's mirror image (test-time flip)
beside it. `--epochs` are those of full-size images: a recipe with small ones gets as many more as
the same multiply-adds allow. A teacher from outside has seen the 5,000, so the hold-out's own
images are scored apart as well. DATA is the archive of docs/training.md.
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
from numpy.typing import NDArray

from benchmarks.machine import describe
from nin_edge import metrics
from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset, open_dataset
from nin_edge.network import NetworkConfig
from nin_edge.training.finetune import Pretrained
from nin_edge.training.loop import train
from nin_edge.training.memory import keep_memory
from nin_edge.training.plan import low_resolution_side
from nin_edge.training.progress import Progress
from nin_edge.training.recipe import Recipe

HELD_OUT: Final = 5000

SGD: Final = Recipe(muon_rate=0.0, batch_size=128, warmup=0.2, low_resolution=0.0)
FULL_SIZE: Final = Recipe(low_resolution=0.0)
RECIPES: Final = {
    "SGD, batch 128": SGD,
    "SGD, batch 250": replace(SGD, batch_size=250),
    "Muon, full size": FULL_SIZE,
    "Muon at half the rate": replace(FULL_SIZE, muon_rate=0.2),
    "Muon at twice the rate": replace(FULL_SIZE, muon_rate=0.8),
    "Muon, warmup 0.2": replace(FULL_SIZE, warmup=0.2),
    "Muon, label smoothing 0.1": replace(FULL_SIZE, label_smoothing=0.1),
    "Muon, small images first": Recipe(),
    "Muon, small images first, crop 4": Recipe(crop=4),
    "Muon, small images first, cutout 8": Recipe(cutout=8),
    "Muon, small images first, both": Recipe(crop=4, cutout=8),
    "Muon, small images first, crop 4, cutout 16": Recipe(crop=4, cutout=16),
    "Muon, small images first, crop 4, CutMix of half": Recipe(crop=4, cutmix=0.5),
    "Muon, small images first, crop 4, CutMix of all": Recipe(crop=4, cutmix=1.0),
}


def _split(dataset: Dataset) -> Dataset:
    """The data set with a larger hold-out, and without its test images."""
    order = np.random.default_rng(12345).permutation(dataset.train)
    held = np.sort(np.concatenate([order[:HELD_OUT], dataset.holdout]))
    return replace(dataset, train=np.sort(order[HELD_OUT:]), holdout=held, test=dataset.test[:0])


def affordable(recipe: Recipe, epochs: int) -> int:
    """Epochs that cost as many multiply-adds as `epochs` of full-size images."""
    small = recipe.low_resolution * (
        1 - (low_resolution_side(32) / 32) ** 2
    )  # what they save, of an epoch
    return round(epochs / (1 - small))


def score(
    checkpoint: Checkpoint, dataset: Dataset, own: NDArray[np.bool_], device: str
) -> list[float]:
    """Accuracy on what is held out: plain, with test-time flip, and on the hold-out's own images.

    Args:
        checkpoint: the network.
        dataset: split by `_split`.
        own: which of its held-out images were held out before.
        device: where to compute.
    """
    network, held = checkpoint.network().to(device), dataset.holdout
    images, targets = dataset.images[held], dataset.targets[held]
    every = np.arange(len(held))
    plain, mirrored = (
        evaluate.logits(network, checkpoint.preprocessing, pixels, every, device)
        for pixels in (images, np.ascontiguousarray(images[:, :, ::-1]))
    )
    return [
        metrics.top1(plain, targets),
        metrics.top1(plain + mirrored, targets),
        metrics.top1(plain[own], targets[own]),
    ]


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    names = "; ".join(RECIPES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {names}; all if none")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--teacher", type=Path, action="append", default=[])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if unknown := set(options.names) - set(RECIPES):
        parser.error(f"no recipe {', '.join(unknown)}: expected of {', '.join(RECIPES)}")
    keep_memory()
    whole = open_dataset(options.data, size=32)
    dataset = _split(whole)
    own = np.isin(dataset.holdout, whole.holdout)
    config = NetworkConfig.from_preset("nin-bn", classes=10, width=options.width)
    print(describe("torch"), f"{torch.get_num_threads()} threads, {options.device}")
    print(
        f"width {options.width:g}, {options.epochs} epochs, {len(dataset.train):,} images to fit, "
    )
    print(f"{len(dataset.holdout):,} held out, {options.seeds} seeds")
    teachers = [Pretrained.load(name) for name in options.teacher]
    for name in options.names or RECIPES:
        recipe = replace(RECIPES[name], bf16=options.bf16)
        recipe = replace(recipe, epochs=affordable(recipe, options.epochs))
        scores: list[list[float]] = []
        last: list[Progress] = []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as run:
                train(
                    *(dataset, config, replace(recipe, seed=seed), DataSource("held out")),
                    Path(run),
                    teachers=teachers,
                    device=options.device,
                    report=last.append,
                )
                last_weights = Checkpoint.load(Path(run) / "last.safetensors")
                scores.append(score(last_weights, dataset, own, options.device))
        plain, flipped, alone = (statistics.mean(column) for column in zip(*scores, strict=True))
        each = ", ".join(f"{row[0]:.2%}" for row in scores)
        print(
            f"{name:48} {recipe.epochs} epochs  {plain:.2%} ({each})  flip {flipped:.2%}  "
            f"hold-out alone {alone:.2%}  {last[-1].images_per_second:,.0f} images/s",
            flush=True,
        )


if __name__ == "__main__":
    main()

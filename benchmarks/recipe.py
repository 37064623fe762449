"""Which recipe is worth having? Trains the same network by several, within the same multiply-adds.

    python -m benchmarks.recipe DATA [NAME...] [--width 0.25] [--epochs 6] [--seeds 2] [--bf16]
        [--teacher WEIGHTS]... [--device cpu]

The test split has no part in it: 5,000 of the training images join the hold-out. The accuracy is
that of the last epoch's weights over all of these, also with the logits of each image's mirror
image added (test-time flip). `--epochs` counts epochs of full-resolution images: a recipe with
low-resolution steps gets as many more as the same multiply-adds allow. A teacher from outside was
trained on the 5,000, so the hold-out's own images are also scored alone. DATA is the archive that
the weights that ship were trained on.
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

from benchmarks._result import Row, answer, parser
from nin_edge import metrics, predict
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset, open_dataset
from nin_edge.network import NetworkConfig
from nin_edge.training.finetune import Pretrained
from nin_edge.training.loop import train
from nin_edge.training.memory import keep_memory
from nin_edge.training.plan import low_resolution_side
from nin_edge.training.progress import Progress
from nin_edge.training.recipe import Recipe
from nin_edge.training.setup import Machine

HELD_OUT: Final = 5000

SGD: Final = Recipe(muon_rate=0.0, batch_size=128, warmup=0.2, low_resolution=0.0)
FULL_RESOLUTION: Final = Recipe(low_resolution=0.0)
RECIPES: Final = {
    "SGD, batch 128": SGD,
    "SGD, batch 250": replace(SGD, batch_size=250),
    "Muon, full resolution": FULL_RESOLUTION,
    "Muon at half the rate": replace(FULL_RESOLUTION, muon_rate=0.2),
    "Muon at twice the rate": replace(FULL_RESOLUTION, muon_rate=0.8),
    "Muon, warmup 0.2": replace(FULL_RESOLUTION, warmup=0.2),
    "Muon, label smoothing 0.1": replace(FULL_RESOLUTION, label_smoothing=0.1),
    "Muon, low resolution first": Recipe(),
    "Muon, low resolution first, crop 4": Recipe(crop=4),
    "Muon, low resolution first, cutout 8": Recipe(cutout=8),
    "Muon, low resolution first, both": Recipe(crop=4, cutout=8),
    "Muon, low resolution first, crop 4, cutout 16": Recipe(crop=4, cutout=16),
    "Muon, low resolution first, crop 4, CutMix of half": Recipe(crop=4, cutmix=0.5),
    "Muon, low resolution first, crop 4, CutMix of all": Recipe(crop=4, cutmix=1.0),
}


def _split(dataset: Dataset) -> Dataset:
    """The data set with a larger hold-out, and without its test images."""
    order = np.random.default_rng(12345).permutation(dataset.train)
    held = np.sort(np.concatenate([order[:HELD_OUT], dataset.holdout]))
    return replace(dataset, train=np.sort(order[HELD_OUT:]), holdout=held, test=dataset.test[:0])


def affordable(recipe: Recipe, epochs: int) -> int:
    """Epochs that cost as many multiply-adds as `epochs` at full resolution."""
    saved = recipe.low_resolution * (1 - (low_resolution_side(32) / 32) ** 2)  # of an epoch
    return round(epochs / (1 - saved))


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
        predict.logits(network, checkpoint.preprocessing, pixels, every, device)
        for pixels in (images, np.ascontiguousarray(images[:, :, ::-1]))
    )
    return [
        metrics.top1(plain, targets),
        metrics.top1(plain + mirrored, targets),
        metrics.top1(plain[own], targets[own]),
    ]


def train_and_score(
    dataset: Dataset, recipe: Recipe, own: NDArray[np.bool_], options: argparse.Namespace
) -> tuple[list[list[float]], float]:
    """The scores of each seed, and the last images a second."""
    config = NetworkConfig.from_preset("nin-bn", classes=10, width=options.width)
    teachers = [Pretrained.load(name) for name in options.teacher]
    scores: list[list[float]] = []
    progress: list[Progress] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as run:
            train(
                *(dataset, config, replace(recipe, seed=seed), DataSource("held out")),
                Path(run),
                teachers=teachers,
                machine=Machine(device=torch.device(options.device)),
                report=progress.append,
            )
            last = Checkpoint.load(Path(run) / "last.safetensors")
            scores.append(score(last, dataset, own, options.device))
    return scores, progress[-1].images_per_second


def options_of() -> argparse.Namespace:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    names = "; ".join(RECIPES)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"of: {names}; all if none")
    arguments.add_argument("--width", type=float, default=0.25)
    arguments.add_argument("--epochs", type=int, default=6)
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--bf16", action="store_true")
    arguments.add_argument("--teacher", type=Path, action="append", default=[])
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = arguments.parse_args()
    if unknown := set(options.names) - set(RECIPES):
        arguments.error(f"no recipe {', '.join(unknown)}: expected of {', '.join(RECIPES)}")
    return options


def main() -> None:
    """Train and write."""
    options = options_of()
    keep_memory()
    whole = open_dataset(options.data, size=32)
    dataset = _split(whole)
    own = np.isin(dataset.holdout, whole.holdout)
    rows: list[Row] = []
    for name in options.names or RECIPES:
        recipe = replace(RECIPES[name], bf16=options.bf16)
        recipe = replace(recipe, epochs=affordable(recipe, options.epochs))
        scores, rate = train_and_score(dataset, recipe, own, options)
        plain, flipped, alone = (statistics.mean(column) for column in zip(*scores, strict=True))
        print(f"{name}: {plain:.2%}", flush=True)
        rows.append(
            {
                "recipe": name,
                "epochs": recipe.epochs,
                "top1": plain,
                "each_seed": [score[0] for score in scores],
                "top1_with_flip": flipped,
                "holdout_top1": alone,
                "images_per_second": rate,
            }
        )
    budget = (
        f"width {options.width:g}, {len(dataset.train):,} training images, "
        f"{len(dataset.holdout):,} held out, {options.seeds} seeds"
    )
    answer("recipe", rows, rounds=budget, packages=("torch",), output=options.output)


if __name__ == "__main__":
    main()

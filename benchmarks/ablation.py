"""What do mlpconv and global average pooling bring? The comparisons of the paper's section 4.

    python -m benchmarks.ablation DATA [--full] [--images 10000] [--epochs 8] [--width 0.25]
        [--seeds 1] [--plot ablation.png]

Five networks by one recipe, without augmentation as in the paper's comparison of heads: mlpconv
with global average pooling; one linear filter and ReLU a layer (a generalised linear model, GLM)
with as many parameters, and with as many multiply-adds; and mlpconv under a fully connected head,
without and with dropout. The default takes 10,000 of the training images, and some minutes on two
cores; `--full` takes all of them, full width, 100 epochs and three seeds, for a GPU. Test errors
choose nothing. DATA is anything that `nin-edge train` takes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks._result import Row, answer, parser
from nin_edge.checkpoint import DataSource
from nin_edge.data import Dataset, locate, open_dataset
from nin_edge.network import NetworkConfig, count_parameters
from nin_edge.training.loop import train
from nin_edge.training.memory import keep_memory
from nin_edge.training.recipe import Recipe
from nin_edge.training.setup import Machine

FULL: Final = {"images": 0, "epochs": 100, "width": 1.0, "seeds": 3}
SMALL: Final = {"images": 10_000, "epochs": 8, "width": 0.25, "seeds": 1}
CHANNELS: Final = range(8, 1025, 8)  # possible channels of a layer
SPREAD: Final = 2  # steps of `CHANNELS` by which the layers of a GLM may differ


@dataclass(frozen=True)
class Candidate:
    """One network of the comparison."""

    name: str
    """Its name in the table."""
    config: NetworkConfig
    """Its shape."""


def linear(like: NetworkConfig, *, by: str) -> NetworkConfig:
    """The plain network whose parameters or multiply-adds come closest to those of `like`.

    Args:
        like: a network of mlpconv blocks.
        by: `parameters` or `multiply-adds`.
    """

    def size(config: NetworkConfig) -> int:
        return config.multiply_adds() if by == "multiply-adds" else count_parameters(config)

    def plain(channels: tuple[int, ...]) -> NetworkConfig:
        blocks = tuple((count,) for count in channels)
        return replace(like, block="linear", width=1.0, blocks=blocks)

    layers, wanted = len(like.blocks), size(like)
    equal = min(CHANNELS, key=lambda count: abs(size(plain((count,) * layers)) - wanted))
    near = [equal + 8 * step for step in range(-SPREAD, SPREAD + 1) if equal + 8 * step > 0]
    choices = itertools.product(near, repeat=layers)
    return min(map(plain, choices), key=lambda config: abs(size(config) - wanted))


def candidates(dataset: Dataset, size: int, channels: int, width: float) -> list[Candidate]:
    """The five networks."""
    mlpconv = NetworkConfig.from_preset(
        "nin-bn", classes=len(dataset.labels), size=size, channels=channels, width=width
    )
    return [
        Candidate("mlpconv, global average pooling", mlpconv),
        Candidate("GLM, as many parameters", linear(mlpconv, by="parameters")),
        Candidate("GLM, as many multiply-adds", linear(mlpconv, by="multiply-adds")),
        Candidate("mlpconv, fully connected", replace(mlpconv, head="fc")),
        Candidate(
            "mlpconv, fully connected, dropout 0.5", replace(mlpconv, head="fc", head_dropout=0.5)
        ),
    ]


def subset(dataset: Dataset, images: int) -> Dataset:
    """The data set with so many training images, drawn once; with all of them if 0."""
    if not 0 < images < len(dataset.train):
        return dataset
    drawn = np.random.default_rng(0).permutation(dataset.train)[:images]
    return replace(dataset, train=np.sort(drawn))


def plot(path: Path, rows: list[tuple[Candidate, list[float]]], title: str) -> None:
    """Draw the error rates as bars, with each seed's as a dot."""
    from matplotlib.figure import Figure

    from nin_edge.plots import COLOURS, to_png

    figure = Figure(figsize=(7, 2.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    means = [100 * statistics.mean(errors) for _, errors in rows]
    bars = axes.barh(
        [candidate.name for candidate, _ in rows], means, color=COLOURS["accent"], height=0.6
    )
    axes.bar_label(bars, [f"{mean:.2f}%" for mean in means], padding=4, fontsize=8)
    for position, (_, errors) in enumerate(rows):
        axes.plot(
            [100 * error for error in errors], [position] * len(errors), ".", color=COLOURS["ink"]
        )
    axes.invert_yaxis()
    axes.set(xlabel="test error, %", xlim=(0, 1.15 * max(means)))
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    path.write_bytes(to_png(figure))


def errors_of(
    dataset: Dataset, config: NetworkConfig, recipe: Recipe, seeds: int, device: str
) -> list[float]:
    """Test error of the best checkpoint, for each seed."""
    errors = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as run:
            best = train(
                dataset,
                config,
                replace(recipe, seed=seed),
                DataSource(dataset.name),
                Path(run),
                machine=Machine(device=torch.device(device)),
            )
        assert best.trained_scores.test is not None  # the data have a test split
        errors.append(1 - best.trained_scores.test.top1)
    return errors


def options_of() -> argparse.Namespace:
    """The command line, with the numbers of `--full` or of the small comparison filled in."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--full", action="store_true", help=f"{FULL}")
    arguments.add_argument("--images", type=int, help="training images, 0 for all")
    arguments.add_argument("--epochs", type=int)
    arguments.add_argument("--width", type=float)
    arguments.add_argument("--seeds", type=int)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--plot", type=Path)
    options = arguments.parse_args()
    for name, default in (FULL if options.full else SMALL).items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options


def main() -> None:
    """Train, write and draw."""
    options = options_of()
    keep_memory()
    location = locate(options.data)
    size, channels = location.native_shape or (32, 3)
    dataset = subset(open_dataset(location, size=size, channels=channels), options.images)
    # A rate at which all five train: at 0.2 the fully connected head diverges.
    recipe = Recipe(
        epochs=options.epochs, learning_rate=0.1, low_resolution=0.0, crop=0, flip=False
    )
    measured: list[tuple[Candidate, list[float]]] = []
    for candidate in candidates(dataset, size, channels, options.width):
        errors = errors_of(dataset, candidate.config, recipe, options.seeds, options.device)
        measured.append((candidate, errors))
        print(f"{candidate.name}: test error {statistics.mean(errors):.2%}", flush=True)
    rows: list[Row] = [
        {
            "network": candidate.name,
            "parameters": count_parameters(candidate.config),
            "multiply_adds": candidate.config.multiply_adds(),
            "test_error": statistics.mean(errors),
            "each_seed": errors,
        }
        for candidate, errors in measured
    ]
    budget = (
        f"{dataset.name}: {len(dataset.train):,} training images, width {options.width:g}, "
        f"{options.epochs} epochs, {options.seeds} seeds"
    )
    answer("ablation", rows, rounds=budget, packages=("torch",), output=options.output)
    if options.plot:
        plot(options.plot, measured, budget)


if __name__ == "__main__":
    main()

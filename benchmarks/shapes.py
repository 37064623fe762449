"""Which shape is worth its time? int8 and fp32 latency against accuracy after equal training.

    python -m benchmarks.shapes photos DATA [--images 50000] [--epochs 3] [--bf16]
    python -m benchmarks.shapes cifar DATA [--epochs 12] [--seeds 2] [--bf16] [--only NAME]...

Each candidate is a Network in Network of `nin-bn`'s layers, trained by one recipe on the same
images: for photos at 64 x 64, where the ratio of latencies is to `nin-cifar10-half` at 32 x 32, or
`nin-deep` against `nin-bn` at 32 x 32, at half and quarter width. What costs multiply-adds is not
what costs time, so all latencies are measured: those of an untrained export's full graph, one
image, one thread, all files in interleaved rounds. DATA is anything that `nin-edge train` takes.
The accuracy is that on 10,000 training images that no candidate trains on; the test split has no
part in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks._measure import timed
from benchmarks._result import Row, answer, parser
from benchmarks.ablation import errors_of, subset
from nin_edge.data import Dataset, locate, open_dataset
from nin_edge.network import NetworkConfig, count_parameters
from nin_edge.training.memory import keep_memory
from nin_edge.training.recipe import Recipe
from nin_edge_export.latency import Untrained
from nin_edge_runtime.bench import interleave, median_ratio

ROUNDS: Final = 60
CALLS: Final = 10
HELD_OUT: Final = 10_000

LIKE: Final = NetworkConfig.from_preset("nin-bn", size=64)


def _shape(*blocks: tuple[int, ...], kernels: tuple[int, ...] = (5, 3, 3, 3)) -> NetworkConfig:
    """Blocks for 64 x 64 pixels, behind a first stride of 2."""
    pools = ("max", "max", "avg")[: len(blocks) - 1]
    return replace(LIKE, blocks=blocks, kernels=kernels, stride=2, pools=pools)


PHOTOS: Final[Mapping[str, NetworkConfig]] = {
    "`nin-cifar10-half`, 32 x 32": NetworkConfig.from_preset("nin-bn", width=0.5),
    "three blocks": _shape((48, 32, 32), (128, 128, 96), (256, 256, 256), kernels=(5, 3, 3)),
    "four blocks, even": replace(
        _shape((48, 32, 32), (96, 96, 64), (192, 192, 128), (256, 256)), width=1.17
    ),
    "four blocks, wide at the end": _shape((48, 32, 32), (96, 96, 64), (192, 192, 192), (384, 512)),
    "the same, first kernel 3 x 3": _shape(
        (32, 32, 32), (96, 96, 96), (192, 192, 192), (384, 512), kernels=(3, 3, 3, 3)
    ),
    "one 1 x 1 convolution a block": _shape((48, 32), (128, 96), (256, 192), (384,)),
    "`nin-photo`": NetworkConfig.from_preset("nin-photo"),
    "`nin-cifar10`, 32 x 32": NetworkConfig.from_preset("nin-bn"),
    "`nin-photo-large`, 80 x 80": NetworkConfig.from_preset("nin-photo-large"),
}
"""Shapes of about the same int8 latency, and presets; those of another input are not trained."""

GROUPS: Final = {
    "photos": (64, (PHOTOS,)),
    "cifar": (
        32,
        tuple(
            {
                f"`{preset}`, width {width}": NetworkConfig.from_preset(preset, width=width)
                for preset in ("nin-bn", "nin-deep")
            }
            for width in (0.5, 0.25)
        ),
    ),
}
"""Side of the images, and groups of candidates: ratios of latency are to the first of a group."""


def latencies(candidates: Mapping[str, NetworkConfig]) -> dict[tuple[str, str], list[float]]:
    """Seconds of one image in each round, by name and precision."""
    runs = {}
    for name, config in candidates.items():
        untrained = Untrained(config)
        for precision in ("int8", "fp32"):
            session = untrained.session(config, precision)
            runs[name, precision] = timed(partial(session.run, untrained.pixels), CALLS)
    interleave(runs, lambda done: done < 3)
    return interleave(runs, lambda done: done < ROUNDS)


def _split(dataset: Dataset, images: int) -> Dataset:
    """So many training images, and others of them in place of the test split."""
    order = np.random.default_rng(12345).permutation(dataset.train)
    return subset(replace(dataset, train=order[HELD_OUT:], test=np.sort(order[:HELD_OUT])), images)


def main() -> None:
    """Measure, train and write."""
    arguments = parser(__doc__)
    arguments.add_argument("group", choices=GROUPS)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--images", type=int, default=0, help="training images, 0 for all")
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--only", action="append", metavar="NAME")
    arguments.add_argument("--bf16", action="store_true", help="train in bfloat16")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = arguments.parse_args()
    keep_memory()
    size, groups = GROUPS[options.group]
    known = [name for group in groups for name in group]
    if unknown := set(options.only or ()) - set(known):
        arguments.error(f"--only: no {min(unknown)}, expected one of {'; '.join(known)}")
    dataset = _split(open_dataset(locate(options.data), size=size, channels=3), options.images)
    recipe = Recipe(epochs=options.epochs, bf16=options.bf16)
    rows: list[Row] = []
    for group in groups:
        first = next(iter(group))
        candidates = {
            name: replace(config, classes=len(dataset.labels)) if config.size == size else config
            for name, config in group.items()
            if name in (first, *(options.only or group))
        }
        seconds = latencies(candidates)
        for name, config in candidates.items():
            errors = []
            if config.size == size:
                errors = errors_of(dataset, config, recipe, options.seeds, options.device)
            rows.append(
                {
                    "network": name,
                    "parameters": count_parameters(config),
                    "multiply_adds": config.multiply_adds(),
                    "int8_ms": 1e3 * statistics.median(seconds[name, "int8"]),
                    "int8_ratio": median_ratio(seconds[name, "int8"], seconds[first, "int8"]),
                    "fp32_ms": 1e3 * statistics.median(seconds[name, "fp32"]),
                    "top1": 1 - statistics.mean(errors) if errors else None,
                    "each_seed": [1 - error for error in errors],
                }
            )
            print(rows[-1], flush=True)
    budget = (
        f"{ROUNDS} rounds of {CALLS} calls; {dataset.name}: {len(dataset.train):,} training "
        f"images, {options.epochs} epochs, seeds: {options.seeds}"
    )
    answer(
        "shapes",
        rows,
        rounds=budget,
        packages=("torch", "onnxruntime"),
        results="" if options.group == "photos" else f"shapes_{options.group}",
        output=options.output,
    )


if __name__ == "__main__":
    main()

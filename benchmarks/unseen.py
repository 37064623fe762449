"""Do the defaults of fine-tuning suit classes that the weights have not seen?

    python -m benchmarks.unseen tiny-imagenet-jpeg.tar.xz [--epochs 4] [--photos 25 400]
        [--set NAME=VALUE]... [--bf16]

nin-photo is pretrained for a few epochs on all classes of DATA but ten, and fine-tuned on photos of
these ten: by the defaults, and by one other recipe for each `--set`. The accuracy is that on 100
training images of each of the ten classes that no training sees; the test split has no part in it.
"""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks._result import Row, answer, parser
from benchmarks.photos import few
from nin_edge.checkpoint import DataSource
from nin_edge.data import Dataset, locate, open_dataset
from nin_edge.metrics import wilson_interval
from nin_edge.network import NetworkConfig
from nin_edge.training.finetune import Pretrained
from nin_edge.training.loop import train
from nin_edge.training.memory import keep_memory
from nin_edge.training.recipe import RECIPES, Recipe
from nin_edge.training.settings import RECIPE_NAMES, parse_setting

UNSEEN: Final = 10  # classes
SCORED: Final = 100  # photos of each of them


def of_classes(dataset: Dataset, chosen: list[int], *, scored: int = 0) -> Dataset:
    """The training images of some classes, so many of each in place of the test split."""
    places = {label: place for place, label in enumerate(chosen)}
    train = dataset.train[np.isin(dataset.targets[dataset.train], chosen)]
    order = np.random.default_rng(12345).permutation(train)
    tests = [order[dataset.targets[order] == label][:scored] for label in chosen]
    test = np.sort(np.concatenate(tests))
    return replace(
        dataset,
        labels=tuple(dataset.labels[label] for label in chosen),
        targets=np.array([places.get(label, 0) for label in dataset.targets.tolist()]),
        train=np.setdiff1d(train, test),
        holdout=dataset.holdout[np.isin(dataset.targets[dataset.holdout], chosen)],
        test=test,
    )


def main() -> None:
    """Pretrain, fine-tune and write."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--photos", nargs="+", type=int, default=[25, 400])
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments.add_argument("--bf16", action="store_true")
    options = arguments.parse_args()
    tried = ({}, *(dict([parse_setting(one, RECIPE_NAMES)]) for one in options.set))
    logging.getLogger("nin_edge").setLevel(logging.ERROR)
    keep_memory()
    dataset = open_dataset(locate(options.data), size=64)
    count = len(dataset.labels)
    unseen = list(range(0, count, count // UNSEEN))[:UNSEEN]
    base = of_classes(dataset, [label for label in range(count) if label not in unseen])
    own = of_classes(dataset, unseen, scored=SCORED)
    network = NetworkConfig.from_preset("nin-photo", classes=len(base.labels))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = replace(RECIPES["nin-photo"], epochs=options.epochs, bf16=options.bf16)
        train(base, network, recipe, DataSource(base.name), folder / "base")
        pretrained = Pretrained.load(folder / "base" / "best.safetensors")
        tuned = replace(network, classes=UNSEEN)
        for photos in options.photos:
            drawn = replace(few(own, photos, 0), test=own.test)
            for changes in tried:
                recipe = Recipe.suited_to(drawn, tuned, fine_tuning=True, **changes)
                run, started = folder / f"{photos} {changes}", time.perf_counter()
                best = train(drawn, tuned, recipe, DataSource(own.name), run, init=pretrained)
                scores = best.trained_scores.test
                assert scores is not None  # there are images in place of the test split
                low, high = wilson_interval(round(scores.top1 * len(own.test)), len(own.test))
                rows.append(
                    {
                        "photos_a_class": photos,
                        "recipe": ", ".join(f"{key}={value}" for key, value in changes.items())
                        or "defaults",
                        "top1": scores.top1,
                        "top1_low": low,
                        "top1_high": high,
                        "train_seconds": time.perf_counter() - started,
                    }
                )
                print(rows[-1], flush=True)
    budget = f"pretrained for {options.epochs} epochs; one seed"
    answer("unseen", rows, rounds=budget, packages=("torch",), output=options.output)


if __name__ == "__main__":
    main()

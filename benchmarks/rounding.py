"""Which way to whole steps keeps int8 closest to the trained network, on the hold-out?

    python -m benchmarks.rounding DATA WEIGHTS... [--epochs 2] [--rate 0.003] [--iterations 2000]

DATA is the archive that the weights were trained on, and the test split has no part in it. WEIGHTS
are not rounded yet: of `nin-edge train --set round_weights=false`, or those of commit cdf16c8.
Compared are rounding to the nearest, rounding in turn (what training does), AdaRound, and further
training with rounded weights and activations, which the network itself teaches. Divergence is the
mean Kullback-Leibler divergence from the trained network, in thousandths of a nat.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from onnx import ModelProto
from torch import Tensor

from benchmarks._result import Row, answer, parser
from benchmarks._rounding import adaptive, to_nearest, train_rounded, trained
from benchmarks.calibration import Probabilities, probabilities
from nin_edge import metrics
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset, open_dataset
from nin_edge.kernels import budgeted_threads
from nin_edge.predict import inputs
from nin_edge.training.completion import CALIBRATION_IMAGES, complete
from nin_edge.training.recipe import Recipe
from nin_edge.training.rounding import round_checkpoint
from nin_edge.weights import find_weights
from nin_edge_export.graph import build_graph
from nin_edge_export.int8.activation_ranges import DEFAULT_METHOD, recorded_ranges
from nin_edge_export.int8.quantize import quantize


def rounded(
    exact: Checkpoint,
    images: Sequence[Tensor],
    data: Dataset,
    *,
    iterations: int,
    epochs: int,
    rate: float,
) -> Iterator[tuple[str, Checkpoint]]:
    """Each way's name, and what it makes of a trained network."""
    yield "to the nearest", round_checkpoint(exact, images, to_nearest)
    yield "in turn (ours)", round_checkpoint(exact, images)
    learnt = partial(adaptive, iterations=iterations)
    yield f"AdaRound, {iterations:,} iterations", round_checkpoint(exact, images, learnt)
    tuned = train_rounded(exact, images, data, epochs=epochs, rate=rate)
    yield "trained rounded", tuned


def main() -> None:
    """Compare and write."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("weights", nargs="+")
    arguments.add_argument("--epochs", type=int, default=2, help="of training rounded weights")
    arguments.add_argument("--rate", type=float, default=0.003, help="its learning rate")
    arguments.add_argument("--iterations", type=int, default=2000, help="of AdaRound, a layer")
    options = arguments.parse_args()
    rows: list[Row] = []
    for weights in options.weights:
        config = Checkpoint.load(find_weights(weights)).config
        data = open_dataset(options.data, size=config.size, channels=config.channels)
        data = replace(data, test=data.test[:0])
        exact = trained(weights, data)
        drawn = np.random.default_rng(0).permutation(data.train)[:CALIBRATION_IMAGES]
        images = list(inputs(exact.preprocessing, data.images, np.sort(drawn)))
        held = _HeldOut(exact, data)
        rows.append({"weights": Path(weights).stem, "rounding": "none"} | held.trained_scores())
        with budgeted_threads():
            started = time.monotonic()
            for name, checkpoint in rounded(
                *(exact, images, data),
                iterations=options.iterations,
                epochs=options.epochs,
                rate=options.rate,
            ):
                seconds = time.monotonic() - started
                rows.append(
                    {"weights": Path(weights).stem, "rounding": name}
                    | held.scores(checkpoint)
                    | {"seconds": seconds}
                )
                print(rows[-1], flush=True)
                started = time.monotonic()
    answer(
        "rounding",
        rows,
        rounds=f"{len(data.holdout):,} images of the hold-out, once",
        packages=("torch", "onnxruntime", "numpy"),
        output=options.output,
    )


class _HeldOut:
    """Scores on the hold-out, and against the trained network's probabilities for it."""

    def __init__(self, exact: Checkpoint, data: Dataset) -> None:
        self._data, self._targets = data, data.targets[data.holdout]
        self._images = exact.preprocessing.normalize(data.images[data.holdout])
        self._reference = self._probabilities(build_graph(exact, "none"))

    def trained_scores(self) -> Row:
        """Those of the trained network itself."""
        return {
            "fp32_top1": metrics.top1(self._reference, self._targets),
            "int8_top1": None,
            "int8_agreement": None,
            "agreement": 1.0,
            "divergence_mnat": 0.0,
            "seconds": None,
        }

    def scores(self, checkpoint: Checkpoint) -> Row:
        """Those of the fp32 and int8 files of rounded weights."""
        done = complete(checkpoint, self._data, Recipe(round_weights=False)).checkpoint
        graph = build_graph(done, "none")
        ranges = recorded_ranges(done, graph, DEFAULT_METHOD)
        fp32, int8 = map(self._probabilities, (graph, quantize(done, graph, ranges)))
        return {
            "fp32_top1": metrics.top1(fp32, self._targets),
            "int8_top1": metrics.top1(int8, self._targets),
            "int8_agreement": _agreement(int8, fp32),
            "agreement": _agreement(int8, self._reference),
            "divergence_mnat": 1e3 * metrics.divergence(self._reference, int8),
        }

    def _probabilities(self, model: ModelProto) -> Probabilities:
        return probabilities(model.SerializeToString(), self._images)


def _agreement(one: Probabilities, other: Probabilities) -> float:
    """The fraction of images to which both give the same class."""
    return float((one.argmax(axis=1) == other.argmax(axis=1)).mean())


if __name__ == "__main__":
    main()

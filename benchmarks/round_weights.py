"""Round the weights of an older checkpoint to int8's grid, as training does at its end today.

    python -m benchmarks.round_weights WEIGHTS DATA OUTPUT.safetensors

Its normalisation becomes one mean and one scale for all channels, and the first convolution takes
over the difference. DATA, what it was trained on, gives images to round on and measures the result.
This made the weights that ship from those of commit cdf16c8.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from benchmarks._rounding import trained
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import open_dataset
from nin_edge.kernels import budgeted_threads
from nin_edge.training.completion import complete
from nin_edge.training.recipe import Recipe
from nin_edge.weights import find_weights


def main() -> None:
    """Convert, measure and write."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    config = Checkpoint.load(find_weights(options.weights)).config
    data = open_dataset(options.data, size=config.size, channels=config.channels)
    with budgeted_threads():
        done = complete(trained(options.weights, data), data, Recipe()).checkpoint
    done.save(options.output)
    for split in ("holdout", "test"):
        if scores := getattr(done.trained_scores, split):
            print(f"{options.output}: top-1 {scores.top1:.2%} ({split}, {scores.images:,} images)")


if __name__ == "__main__":
    main()

"""Which way of finding activation ranges keeps int8 closest to fp32, on the hold-out?

    python -m benchmarks.calibration DATA [WEIGHTS]

DATA is the archive that the weights were trained on. Divergence is the mean Kullback-Leibler
divergence of int8's probabilities from fp32's, in thousandths of a nat; the last column is that
with the last convolution in float. The test split has no part in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks._result import Row, answer, parser
from nin_edge import metrics
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import open_dataset
from nin_edge.weights import DEFAULT_WEIGHTS, find_weights
from nin_edge_export.graph import build_graph
from nin_edge_export.int8.activation_ranges import calibrate, recorded_ranges
from nin_edge_export.int8.quantize import quantize

IMAGES, BATCH = 512, 16
AT_ONCE: Final = 50  # images of a run

Probabilities: TypeAlias = NDArray[np.float64]  # (N, K)


def probabilities(model: bytes, images: NDArray[np.float32]) -> Probabilities:
    """A model's probabilities (N, K) of normalised images (N, C, S, S)."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = [
        session.run(["probabilities"], {"image": images[start : start + AT_ONCE]})[0]
        for start in range(0, len(images), AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.float64)


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("weights", type=Path, nargs="?", default=DEFAULT_WEIGHTS)
    options = arguments.parse_args()
    checkpoint = Checkpoint.load(find_weights(options.weights))
    steps = checkpoint.preprocessing
    data = open_dataset(options.data, size=steps.size, channels=steps.channels)
    graph = build_graph(checkpoint, "none")
    chosen = np.sort(np.random.default_rng(0).permutation(data.train)[:IMAGES])
    pixels = [data.images[chosen[start : start + BATCH]] for start in range(0, IMAGES, BATCH)]
    images, targets = steps.normalize(data.images[data.holdout]), data.targets[data.holdout]
    reference = probabilities(graph.SerializeToString(), images)
    ranges = {
        f"{method}, recorded in training": recorded_ranges(checkpoint, graph, method)
        for method in ("minmax", "percentile")
    } | {
        f"{method}, {IMAGES} images": calibrate(checkpoint, graph, pixels, method)
        for method in ("minmax", "percentile", "entropy")
    }
    last = next(node.name for node in reversed(graph.graph.node) if node.op_type == "Conv")
    rows: list[Row] = [
        {"ranges": "fp32", "top1": metrics.top1(reference, targets), "agreement": 1.0}
        | {"divergence_mnat": 0.0, "divergence_last_float_mnat": None}
    ]
    for name, measured in ranges.items():
        whole, kept = (
            probabilities(quantize(checkpoint, graph, measured, names).SerializeToString(), images)
            for names in ((), (last,))
        )
        agreement = float((whole.argmax(axis=1) == reference.argmax(axis=1)).mean())
        rows.append(
            {
                "ranges": name,
                "top1": metrics.top1(whole, targets),
                "agreement": agreement,
                "divergence_mnat": 1e3 * metrics.divergence(reference, whole),
                "divergence_last_float_mnat": 1e3 * metrics.divergence(reference, kept),
            }
        )
    answer(
        "calibration",
        rows,
        rounds=f"{len(images):,} images of the hold-out, `{options.weights.stem}`",
        packages=("onnxruntime", "numpy"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

"""Which way of finding int8's ranges keeps the network's answers best, on the hold-out?

python -m benchmarks.calibration cifar10-jpeg.tar.xz [WEIGHTS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.machine import describe
from nin_edge import metrics
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import open_dataset
from nin_edge.weights import DEFAULT_WEIGHTS
from nin_edge_export.graph import build_graph
from nin_edge_export.int8.activation_ranges import calibrate, recorded_ranges
from nin_edge_export.int8.quantize import quantize

IMAGES, BATCH = 512, 16


def main() -> None:
    """Measure and print."""
    weights = Path(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_WEIGHTS
    checkpoint = Checkpoint.load(weights)
    steps = checkpoint.preprocessing
    data = open_dataset(Path(sys.argv[1]), size=steps.size, channels=steps.channels)
    graph = build_graph(checkpoint, "none")
    chosen = np.sort(np.random.default_rng(0).permutation(data.train)[:IMAGES])
    pixels = [data.images[chosen[start : start + BATCH]] for start in range(0, IMAGES, BATCH)]
    fed = steps.normalize(data.images[data.holdout])
    targets = data.targets[data.holdout]

    def answers(model: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        parts = [
            session.run(["probabilities"], {"image": fed[i : i + 50]})[0]
            for i in range(0, len(fed), 50)
        ]
        return np.concatenate(parts).astype(np.float64)

    reference = answers(graph.SerializeToString())
    print(describe("onnxruntime", "numpy"), weights.name, f"{len(fed)} images of the hold-out")
    print(f"{'fp32':24} top-1 {metrics.top1(reference, targets):.2%}")
    candidates = {
        f"{method}, recorded": recorded_ranges(checkpoint, graph, method)
        for method in ("minmax", "percentile")
    } | {
        f"{method}, {IMAGES} images": calibrate(checkpoint, graph, pixels, method)
        for method in ("minmax", "percentile", "entropy")
    }
    last = next(node.name for node in reversed(graph.graph.node) if node.op_type == "Conv")
    for name, ranges in candidates.items():
        for kept in ((), (last,)):
            found = answers(quantize(checkpoint, graph, ranges, kept).SerializeToString())
            divergence = metrics.divergence(reference, found)
            agreement = (found.argmax(axis=1) == reference.argmax(axis=1)).mean()
            print(
                f"{name:24} top-1 {metrics.top1(found, targets):.2%}, agreement {agreement:.2%}, "
                f"divergence {1e3 * divergence:.3f} mnat"
                + (", last convolution in float" if kept else "")
            )


if __name__ == "__main__":
    main()

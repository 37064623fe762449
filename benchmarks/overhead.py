"""What does `Classifier` add to `InferenceSession.run` on one 32 x 32 array?

python -m benchmarks.overhead [MODEL]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.machine import describe, interleave, report
from nin_edge_runtime import DEFAULT_MODEL, Classifier

ROUNDS, CALLS = 200, 20


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        return (time.perf_counter() - started) / CALLS

    return measure


def main() -> None:
    """Measure and print."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_MODEL
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    print(describe("onnxruntime", "numpy"), model.name)
    for threads in (1, 2):
        classify = Classifier(model, threads=threads, provider="cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        fed, names = {"image": image[np.newaxis]}, ["probabilities", "class_maps"]
        candidates = {
            f"InferenceSession, {threads} threads": _timed(partial(session.run, names, fed)),
            f"Classifier, {threads} threads": _timed(partial(classify, image)),
        }
        interleave(candidates, 5)
        report(interleave(candidates, ROUNDS))


if __name__ == "__main__":
    main()

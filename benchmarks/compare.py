"""How do the precisions of one network compare: size, accuracy, agreement, latency?

    python -m benchmarks.compare demo/nin-cifar10.fp32.onnx demo/nin-cifar10.int8.onnx ...

The first file is what the others are compared with.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from nin_edge_runtime import Classifier
from nin_edge_runtime.bench import CALLS, time_models
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.model_file.certificate import BY_FILE

IMAGES, MARGIN, ROUNDS = 1000, 0.2, 60


def main() -> None:
    """Measure and print."""
    models = [Classifier(Path(name), provider="cpu", threads=1) for name in sys.argv[1:]]
    size = models[0].info.preprocessing.size
    images = [golden_image(seed, size, size) for seed in range(IMAGES)]
    probabilities = [np.stack([p.probabilities for p in model.batch(images)]) for model in models]
    ordered = np.sort(probabilities[0], axis=1)
    sure = ordered[:, -1] - ordered[:, -2] >= MARGIN
    answers = [found[sure].argmax(axis=1) for found in probabilities]
    _, timings = time_models(models, batches=(1,), rounds=ROUNDS)
    print(f"{'file':28} {'bytes':>9} {'top-1':>8} {'agreement':>9} {'latency':>9} {'ratio':>6}")
    remarks = set()
    for index, (name, model) in enumerate(zip(sys.argv[1:], models, strict=True)):
        accuracy = model.info.certificate.accuracy
        shown = "-"
        if accuracy is not None:
            by_file = accuracy.measured_with == BY_FILE
            shown = f"{accuracy.top1:.2%}{'' if by_file else '*'}"
            if not by_file:
                remarks.add(f"* measured with {accuracy.measured_with}, on {accuracy.data}")
        agreement = (answers[index] == answers[0]).mean()
        (timing,) = timings[index]
        assert timing.ratio is not None  # every model was timed on one image
        print(
            f"{Path(name).name:28} {Path(name).stat().st_size:9,} {shown:>8} {agreement:9.2%} "
            f"{timing.p50_ms:6.3f} ms {1 / timing.ratio:5.2f}x"
        )
    for remark in sorted(remarks):
        print(remark)
    print(
        f"agreement: on the {sure.sum()} of {IMAGES:,} synthetic images of which the first file is "
        f"sure (by {MARGIN:g})"
    )
    print(f"latency: one {size} x {size} array, one thread, median of {ROUNDS} x {CALLS} calls")
    print(describe("onnxruntime", "numpy"))


if __name__ == "__main__":
    main()

"""What does `Classifier` add to `InferenceSession.run`, in time and in memory?

    python -m benchmarks.overhead [MODEL...]

Each model file on one thread: one array of its size, and a camera's frame against Pillow's crop
and resize by hand. Without MODEL, the default model, and besides 100,000 predictions and what they
leave in memory, and eight threads that share one classifier.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from benchmarks.machine import describe, interleave, report, run_step, timed
from nin_edge_runtime import DEFAULT_MODEL, Classifier
from nin_edge_runtime.golden import golden_image

ROUNDS, CALLS = 200, 20
FRAME_ROUNDS, FRAME_CALLS = 60, 3
MANY, SETTLED = 100_000, 1_000
THREADS, EACH = 8, 1_000


def _session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def measure_calls(model: Path) -> None:
    """One array of the network's size and one 1920 x 1080 frame, by hand and by `Classifier`."""
    classify, session = Classifier(model, threads=1, provider="cpu"), _session(model)
    side = classify.info.preprocessing.size
    print(f"{model.name}, {side} x {side}")
    names = ["probabilities", "class_maps"]
    image = golden_image(0, side, side)
    fed = {"image": image[np.newaxis]}
    candidates = {
        "InferenceSession, array": partial(session.run, names, fed),
        "Classifier, array": partial(classify, image),
    }
    measured = {title: timed(call, CALLS) for title, call in candidates.items()}
    interleave(measured, 5)
    report(interleave(measured, ROUNDS))
    frame = golden_image(1, 1080, 1920)

    def by_hand() -> None:
        square = Image.fromarray(frame).crop((420, 0, 1500, 1080))
        small = square.resize((side, side), Image.Resampling.BILINEAR)
        session.run(names, {"image": np.asarray(small)[np.newaxis]})

    candidates = {
        "Pillow and InferenceSession, frame": by_hand,
        "Classifier, frame": partial(classify, frame),
        "Classifier, frame, bgr": partial(classify, frame, bgr=True),
    }
    measured = {title: timed(call, FRAME_CALLS) for title, call in candidates.items()}
    interleave(measured, 3)
    report(interleave(measured, FRAME_ROUNDS))


def measure_endurance() -> None:
    """Memory after many predictions, and answers of many threads. In a process of its own."""
    classify = Classifier(threads=1, provider="cpu")
    images = [golden_image(seed, 24 + seed % 20, 40) for seed in range(50)]
    resident = []
    for index in range(MANY):
        if index in (SETTLED, MANY - 1):
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
            resident.append(pages * 4096)
        classify(images[index % len(images)])
    print(
        f"{MANY:,} predictions: resident memory grows by "
        f"{(resident[1] - resident[0]) / 1e6:.2f} MB after the first {SETTLED:,}"
    )
    many = [golden_image(seed, 32, 32) for seed in range(EACH)]
    serial = np.stack([classify(image).probabilities for image in many])
    with ThreadPoolExecutor(THREADS) as pool:
        runs = [
            pool.submit(lambda: np.stack([classify(image).probabilities for image in many]))
            for _ in range(THREADS)
        ]
        equal = sum(np.array_equal(run.result(), serial) for run in runs)
    print(
        f"{THREADS} threads share a classifier, {EACH:,} images each: "
        f"{equal} of {THREADS} give the very answers of one thread"
    )


def main() -> None:
    """Measure and print."""
    print(describe("onnxruntime", "numpy", "pillow"))
    named = [Path(name) for name in sys.argv[1:]]
    for model in named or [DEFAULT_MODEL]:
        measure_calls(model)
    if not named:
        run_step("benchmarks.overhead", "endurance")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    else:
        measure_endurance()

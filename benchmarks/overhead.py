"""What does `Classifier` add to `InferenceSession.run`, in time and memory?

    python -m benchmarks.overhead [MODEL...]

Each MODEL on one thread: an array of its size, and a camera's frame against Pillow's crop and
resize by hand. Without MODEL, the default one and the smallest network that ships, in int8. Then
the first model over a folder of JPEGs, one call a photo against `stream` as `nin-edge run FOLDER`
uses it; memory after many predictions; and whether threads that share a classifier get equal
probabilities.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from PIL import Image

from benchmarks._measure import compare, run_step, timed
from benchmarks._result import ROOT, Row, answer, parser
from nin_edge_runtime import DEFAULT_MODEL, Classifier
from nin_edge_runtime.golden import golden_image

ROUNDS, CALLS = 200, 20
FRAME_ROUNDS, FRAME_CALLS = 60, 3
FOLDER_ROUNDS, PHOTOS, WORKERS = 5, 300, 2
PREDICTIONS, SETTLED = 20_000, 1_000
THREADS, EACH = 8, 200
SMALLEST: Final = "nin-cifar10-quarter"
OUTPUTS: Final = ["probabilities", "class_maps"]


def _session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def rows_of(
    model: Path, given: str, calls: Mapping[str, Callable[[], object]], rounds: int, repeat: int
) -> list[Row]:
    """Measure calls on one input; ratios are to the first."""
    measured = {name: timed(call, repeat) for name, call in calls.items()}
    return [
        {
            "model": model.stem,
            "input": given,
            "call": name,
            "milliseconds": 1e3 * found.median,
            "ratio": found.ratio,
            "rounds": f"{rounds} x {repeat}",
        }
        for name, found in compare(measured, rounds).items()
    ]


def measure_calls(model: Path) -> list[Row]:
    """One array of the network's size and one 1920 x 1080 frame, by hand and by `Classifier`."""
    classify, session = Classifier(model, threads=1, provider="cpu"), _session(model)
    side = classify.info.preprocessing.size
    image, frame = golden_image(0, side, side), golden_image(1, 1080, 1920)

    def by_hand() -> None:
        square = Image.fromarray(frame).crop((420, 0, 1500, 1080))
        small = square.resize((side, side), Image.Resampling.BILINEAR)
        session.run(OUTPUTS, {"image": np.asarray(small)[np.newaxis]})

    array = {
        "InferenceSession.run": partial(session.run, OUTPUTS, {"image": image[np.newaxis]}),
        "Classifier": partial(classify, image),
    }
    camera = {
        "Pillow, then InferenceSession.run": by_hand,
        "Classifier": partial(classify, frame),
        "Classifier, bgr=True": partial(classify, frame, bgr=True),
    }
    return [
        *rows_of(model, f"{side} x {side} array", array, ROUNDS, CALLS),
        *rows_of(model, "1920 x 1080 frame", camera, FRAME_ROUNDS, FRAME_CALLS),
    ]


def measure_folder(model: Path) -> list[Row]:
    """A folder of 640 x 480 JPEGs, one photo a call and by `stream`."""
    one, two = (Classifier(model, provider="cpu", threads=threads) for threads in (1, WORKERS))
    photo = io.BytesIO()
    with Image.open(ROOT / "examples" / "cat.jpg") as opened:
        opened.resize((640, 480)).save(photo, "JPEG", quality=90)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index:05}.jpg" for index in range(PHOTOS)]
        for path in paths:
            path.write_bytes(photo.getvalue())
        # As `nin-edge run FOLDER` does: two decoding threads, the network on one.
        streamed = partial(one.stream, paths, workers=WORKERS)
        calls = {
            "Classifier, photo by photo": lambda: [one(path) for path in paths],
            "stream, network on 2 threads": lambda: list(two.stream(paths, workers=WORKERS)),
            "stream, network on 1 thread": lambda: list(streamed()),
            "stream, batches of 8, 1 thread": lambda: list(streamed(batch_size=8)),
        }
        return rows_of(model, f"{PHOTOS} JPEGs of 640 x 480", calls, FOLDER_ROUNDS, 1)


def endurance(model: Path) -> list[str]:
    """Memory after many predictions and equality among threads, as sentences."""
    classify = Classifier(model, threads=1, provider="cpu")
    images = [golden_image(seed, 24 + seed % 20, 40) for seed in range(50)]
    resident = []
    for index in range(PREDICTIONS):
        if index in (SETTLED, PREDICTIONS - 1):
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
            resident.append(pages * 4096)
        classify(images[index % len(images)])
    many = [golden_image(seed, 32, 32) for seed in range(EACH)]

    def predict() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.stack([classify(image).probabilities for image in many])

    serial = predict()
    with ThreadPoolExecutor(THREADS) as pool:
        runs = [pool.submit(predict) for _ in range(THREADS)]
        equal = sum(np.array_equal(run.result(), serial) for run in runs)
    grown = (resident[1] - resident[0]) / 1e6
    return [
        f"After {PREDICTIONS:,} predictions, resident memory has grown by {grown:.2f} MB since the "
        f"first {SETTLED:,}.",
        f"{THREADS} threads share a classifier, {EACH} images each: {equal} of {THREADS} get "
        "exactly the probabilities of a single thread.",
    ]


def export_smallest(folder: str) -> Path:
    """The int8 file of the smallest network that ships."""
    command = [sys.executable, "-m", "nin_edge", "export", SMALLEST, "--precision", "int8"]
    subprocess.run([*command, "--output", folder], check=True, stdout=subprocess.DEVNULL)
    return Path(folder) / f"{SMALLEST}.int8.onnx"


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("models", type=Path, nargs="*", metavar="MODEL")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or [DEFAULT_MODEL, export_smallest(folder)]
        rows = [row for model in models for row in measure_calls(model)]
        rows += measure_folder(models[0])
    answer(
        "overhead",
        rows,
        rounds="rounds x calls in the table",
        packages=("onnxruntime", "numpy", "pillow"),
        notes=run_step("benchmarks.overhead", models[0]),
        output=options.output,
    )


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    else:
        print(json.dumps(endurance(Path(sys.argv[2]))))

"""What do odd images, damaged images, and damaged or hostile models and archives lead to?

    python -m benchmarks.damage [--data FOLDER] [--images 2000] [--models 200] [--hostile 3000]
                                [--seed 0]

FOLDER has `pngsuite.tar.xz` and `exif-orientation.tar`; NIN_EDGE_TEST_DATA if not given, and these
rows are left out if that is not set. All damage is drawn from the seed. Every input is tried in a
child process, so that a crash or a hang of a decoder or of ONNX Runtime is counted. The exit code
is 1 if an input led to anything but a prediction or the expected error.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks._damage_archives import hostile_archives
from benchmarks._damage_inputs import PHOTO, Item, archived, damaged, whole_images
from benchmarks._damage_models import MUTATIONS, flipped, mutated
from benchmarks._result import Row, answer, parser
from nin_edge_runtime import DEFAULT_MODEL, Classifier, ImageError, ModelFileError, read_model

LIMIT: Final = 10.0  # seconds for one image or model
OF_IMAGES: Final = ("prediction", "ImageError")
OF_MODELS: Final = ("prediction", "ModelFileError")
OF_ARCHIVES: Final = ("data set", "DatasetError")
CHUNK: Final = 50  # inputs in a child process

Attempt = Callable[[bytes], tuple[str, str, tuple[float, ...]]]
"""Tries an input; gives the result's type, its label or message, and its probabilities."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one input."""

    name: str
    """What the input is called."""
    result: str
    """`prediction`, the error's type, `crash (SIGNAL)` or `hang`."""
    text: str = ""
    """The label, or the error's message."""
    probabilities: tuple[float, ...] = ()
    """Probabilities (K,) of a prediction."""
    memory: int = 0
    """Peak resident memory of the child until then, in MB."""
    seconds: float = 0.0
    """How long it took."""


@cache
def _default() -> Classifier:
    return Classifier(provider="cpu", threads=1)


def try_image(data: bytes) -> tuple[str, str, tuple[float, ...]]:
    """Classify an encoded image with the default model."""
    try:
        prediction = _default()(data)
    except ImageError as error:
        return "ImageError", str(error), ()
    return "prediction", prediction.label, tuple(prediction.probabilities.tolist())


def try_model(data: bytes) -> tuple[str, str, tuple[float, ...]]:
    """Open a model and classify the photo with it."""
    try:
        prediction = Classifier(data, provider="cpu", threads=1)(PHOTO)
    except ModelFileError as error:
        return "ModelFileError", str(error), ()
    return "prediction", prediction.label, tuple(prediction.probabilities.tolist())


def try_archive(data: bytes) -> tuple[str, str, tuple[float, ...]]:
    """Read an archive as a data set."""
    from nin_edge.data import DatasetError, open_dataset

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data")
        path.write_bytes(data)
        try:
            dataset = open_dataset(path, size=16, workers=1, cache=Path(folder, "cache"))
        except DatasetError as error:
            return "DatasetError", str(error), ()
        return "data set", f"{len(dataset.names)} images", ()


def _child(pipe: Connection, attempt: Attempt, items: Sequence[Item]) -> None:
    """Try each input and send its outcome; a native crash ends the process instead."""
    import resource

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write their complaints there
    for name, data in items:
        started = time.perf_counter()
        try:
            result, text, probabilities = attempt(data)
        except Exception as error:  # what this script looks for
            result, text, probabilities = type(error).__name__, str(error), ()
        seconds = time.perf_counter() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        pipe.send(Outcome(name, result, text, probabilities, memory, seconds))


def outcomes_of(attempt: Attempt, items: Sequence[Item], chunk: int) -> Iterator[Outcome]:
    """The outcome of each input, in order, `chunk` of them in a child process at a time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onnxruntime", "nin_edge_runtime.classifier"])
    position = 0
    while position < len(items):
        part = items[position : position + chunk]
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(theirs, attempt, part))
        child.start()
        theirs.close()
        for name, _ in part:
            position += 1
            try:
                if ours.poll(LIMIT):
                    yield ours.recv()
                    continue
                yield Outcome(name, "hang", seconds=LIMIT)
            except EOFError:
                child.join()
                code = child.exitcode or 0
                end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                yield Outcome(name, f"crash ({end})")
            break  # the rest of the chunk goes to a new child
        ours.close()
        child.kill()
        child.join()


def row(title: str, outcomes: Sequence[Outcome], expected: Sequence[str]) -> Row:
    """One line of the table; what should not happen is printed as well."""
    results = Counter(outcome.result for outcome in outcomes)
    unexpected = [outcome for outcome in outcomes if outcome.result not in expected]
    for outcome in unexpected:
        print(f"UNEXPECTED {outcome.name}: {outcome.result} {outcome.text[:200]}")
    return {
        "input": title,
        "count": len(outcomes),
        "predictions": results["prediction"] + results["data set"],
        "errors": sum(results[name] for name in ("ImageError", "ModelFileError", "DatasetError")),
        "unexpected": len(unexpected),
        "slowest_seconds": max(outcome.seconds for outcome in outcomes),
        "peak_mb": max(outcome.memory for outcome in outcomes),
    }


def rows_by_ending(
    title: str, outcomes: Sequence[Outcome], endings: Sequence[str], expected: Sequence[str]
) -> list[Row]:
    """One row for each ending of the inputs' names."""
    return [
        row(
            f"{title}, {end.strip()}",
            [outcome for outcome in outcomes if outcome.name.endswith(end)],
            expected,
        )
        for end in endings
    ]


def refusals(title: str, outcomes: Sequence[Outcome]) -> str:
    """Which check refused the models: our own ones, ONNX Runtime at loading, or its first run."""
    marks = {
        "SHA-256": "its SHA-256 is not",
        "not a model": "not an ONNX model",
        "metadata": "damaged metadata",
        "foreign": "without nin-edge's metadata",
        "newer format": "model format",
        "graph check": "refused before it is run",
        "ONNX Runtime, loading": "cannot load it",
        "ONNX Runtime, first image": "fails at an image",
        "outputs": ": outputs ",
    }
    counts = Counter(
        next((name for name, mark in marks.items() if mark in outcome.text), outcome.text[:80])
        for outcome in outcomes
        if outcome.result == "ModelFileError"
    )
    listed = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    return f"{title}, refused by: {listed}."


def exif_notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Photos of one scene in every EXIF orientation: how far their probabilities lie apart."""
    notes = []
    for scene in sorted({outcome.name.split("_")[0] for outcome in outcomes}):
        photos = [outcome for outcome in outcomes if outcome.name.split("_")[0] == scene]
        first = next(photo for photo in photos if photo.name == f"{scene}_0")
        same = sum(photo.text == first.text for photo in photos)
        largest = max(
            np.abs(np.subtract(photo.probabilities, first.probabilities)).max() for photo in photos
        )
        notes.append(
            f"EXIF orientations, {scene}: {same} of {len(photos)} photos get {first.text!r}; "
            f"probabilities differ by at most {largest:.4f}."
        )
    return notes


def real_images(folder: Path) -> tuple[list[Row], list[str]]:
    """PngSuite and the EXIF photos."""
    suite = list(archived(folder / "pngsuite.tar.xz", ".png"))
    scenes = list(archived(folder / "exif-orientation.tar", ".jpg"))
    turned = list(outcomes_of(try_image, scenes, CHUNK))
    rows = [
        row("PngSuite", list(outcomes_of(try_image, suite, CHUNK)), OF_IMAGES),
        row("EXIF orientations", turned, ["prediction"]),
    ]
    return rows, exif_notes(turned)


def damaged_models(
    count: int, hostile: int, rng: np.random.Generator
) -> tuple[list[Row], list[str]]:
    """Damaged copies of the default model, and copies with a valid SHA-256."""
    model = DEFAULT_MODEL.read_bytes()
    plain = list(outcomes_of(try_model, damaged([("model", model)], count, rng), CHUNK))
    forged = list(outcomes_of(try_model, flipped(model, hostile, rng), CHUNK))
    changed = list(outcomes_of(try_model, mutated(model, hostile, rng), CHUNK))
    (whole,) = outcomes_of(try_model, [("whole", model)], 1)
    labels = read_model(model)[1].labels
    predicted = [outcome.text for outcome in forged if outcome.result == "prediction"]
    notes = [
        refusals("Damaged models", plain),
        refusals("Models with flipped bits, re-sealed", forged),
        refusals("Models with another structure, re-sealed", changed),
        f"Models with flipped bits that load: {predicted.count(whole.text)} of {len(predicted)} "
        f"predict the whole file's label, "
        f"{sum(label in labels for label in predicted)} one of its labels.",
    ]
    rows = rows_by_ending("models", plain, ("cut", "flipped"), ["ModelFileError"])
    endings = ("anywhere", "all but weights")
    rows += rows_by_ending("models, bits flipped, re-sealed", forged, endings, OF_MODELS)
    rows += rows_by_ending("models, re-sealed", changed, tuple(MUTATIONS), OF_MODELS)
    return rows, notes


def main() -> None:
    """Try everything and write."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=os.environ.get("NIN_EDGE_TEST_DATA"))
    arguments.add_argument("--images", type=int, default=2000)
    arguments.add_argument("--models", type=int, default=200)
    arguments.add_argument("--hostile", type=int, default=3000)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    rng = np.random.default_rng(options.seed)
    rows, notes = real_images(Path(options.data)) if options.data else ([], [])
    items = damaged(list(whole_images()), options.images, rng)
    outcomes = list(outcomes_of(try_image, items, CHUNK))
    rows += rows_by_ending("images", outcomes, ("cut", "flipped"), OF_IMAGES)
    model_rows, model_notes = damaged_models(options.models, options.hostile, rng)
    rows += model_rows
    archives = list(outcomes_of(try_archive, list(hostile_archives()), CHUNK))
    rows += rows_by_ending(
        "hostile archives", archives, (" tar", "gz", "bz2", "xz", "zip"), OF_ARCHIVES
    )
    answer(
        "damage",
        rows,
        rounds=f"seed {options.seed}",
        packages=("onnxruntime", "numpy", "pillow"),
        notes=[*notes, *model_notes],
        output=options.output,
    )
    raise SystemExit(any(line["unexpected"] for line in rows))


if __name__ == "__main__":
    main()

"""What comes of bad input? Real odd images, damaged images and damaged models, in numbers.

python -m benchmarks.damage [--data FOLDER] [--images 2000] [--models 500] [--seed 0]

FOLDER holds `pngsuite.tar.xz` and `exif-orientation.tar`; NIN_EDGE_TEST_DATA if not given, and
these rows are left out if that is not set. All damage is drawn from the seed. Everything runs in
child processes, so that a crash or a hang of a decoder or of ONNX Runtime is counted, not suffered.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image, features

from benchmarks.machine import describe
from nin_edge_runtime import DEFAULT_MODEL, Classifier, ImageError, ModelFileError, read_model
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.model_file.protobuf import fields, tag
from nin_edge_runtime.model_file.read import file_sha256, find_sha256

PHOTO = Path(__file__).parent.parent / "examples" / "cat.jpg"
LIMIT = 10.0  # seconds for one image or model
_GRAPH, _INITIALIZER, _RAW_DATA = tag(7), tag(5), tag(9)  # of ModelProto, GraphProto, TensorProto
CHUNK = 50  # images a child; a model has a child of its own

Item = tuple[str, bytes]
"""A kind of input, and the bytes."""


@dataclass(frozen=True)
class Outcome:
    """What one input came to."""

    kind: str
    """The kind of input."""
    result: str
    """`prediction`, the error's type, `crash (SIGNAL)` or `hang`."""
    said: str = ""
    """The label, or the error's message."""
    scores: tuple[float, ...] = ()
    """Probabilities (K,), where there are any."""
    memory: int = 0
    """Largest resident memory of the child up to then, in MB."""
    seconds: float = 0.0
    """How long it took."""


def try_image(data: bytes) -> tuple[str, str, tuple[float, ...]]:
    """Classify an encoded image with the default model: the result's type, words and scores."""
    try:
        prediction = _default()(data)
    except ImageError as error:
        return "ImageError", str(error), ()
    return "prediction", prediction.label, tuple(prediction.probabilities.tolist())


def try_model(data: bytes) -> tuple[str, str, tuple[float, ...]]:
    """Open a model and classify the photo with it, as `try_image`."""
    try:
        prediction = Classifier(data, provider="cpu", threads=1)(PHOTO)
    except ModelFileError as error:
        return "ModelFileError", str(error), ()
    return "prediction", prediction.label, tuple(prediction.probabilities.tolist())


@cache
def _default() -> Classifier:
    return Classifier(provider="cpu", threads=1)


def _child(
    pipe: Connection,
    attempt: Callable[[bytes], tuple[str, str, tuple[float, ...]]],
    items: Sequence[Item],
) -> None:
    """Try each input and send what it came to; a native crash ends the process instead."""
    import resource

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write there what they think of a file
    for kind, data in items:
        started = time.perf_counter()
        try:
            result, said, scores = attempt(data)
        except Exception as error:  # the finding that this script is for
            result, said, scores = type(error).__name__, str(error), ()
        seconds = time.perf_counter() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        pipe.send(Outcome(kind, result, said, scores, memory, seconds))


def tried(
    attempt: Callable[[bytes], tuple[str, str, tuple[float, ...]]],
    items: Sequence[Item],
    chunk: int,
) -> Iterator[Outcome]:
    """What each input came to, in order, `chunk` of them in a child process at a time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onnxruntime", "nin_edge_runtime.classifier"])
    position = 0
    while position < len(items):
        part = items[position : position + chunk]
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(theirs, attempt, part))
        child.start()
        theirs.close()
        for kind, _ in part:
            position += 1
            try:
                if ours.poll(LIMIT):
                    yield ours.recv()
                    continue
                yield Outcome(kind, "hang", seconds=LIMIT)
            except EOFError:
                child.join()
                code = child.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                yield Outcome(kind, f"crash ({name})")
            break  # the rest of the chunk goes to a new child
        ours.close()
        child.kill()
        child.join()


def photos() -> Iterator[Item]:
    """The photo and a drawn picture in every format and variant that Pillow writes here."""
    with Image.open(PHOTO) as opened:
        photo = opened.convert("RGB")
    yield "JPEG", PHOTO.read_bytes()
    variants: list[tuple[str, str, str, dict[str, object]]] = [
        ("JPEG", "RGB", "progressive", {"progressive": True}),
        ("JPEG", "L", "grey", {}),
        ("JPEG", "CMYK", "CMYK", {}),
        ("PNG", "RGB", "", {}),
        ("PNG", "P", "palette", {}),
        ("PNG", "RGBA", "alpha", {}),
        ("PNG", "I;16", "16 bits", {}),
        ("PNG", "RGB", "animated", {"save_all": True}),
        ("GIF", "P", "", {}),
        ("GIF", "P", "animated", {"save_all": True}),
        ("BMP", "RGB", "", {}),
        ("TIFF", "RGB", "", {}),
        *(
            ("TIFF", "RGB", name, {"compression": name})
            for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ),
        ("TIFF", "1", "group4", {"compression": "group4"}),
        ("WEBP", "RGB", "", {}),
        ("WEBP", "RGBA", "lossless", {"lossless": True}),
        ("WEBP", "RGB", "animated", {"save_all": True}),
        ("AVIF", "RGB", "", {}),
        ("JPEG2000", "RGB", "", {}),
        *((kind, "RGB", "", {}) for kind in ("ICO", "ICNS", "PPM", "TGA", "PCX", "SGI", "QOI")),
        ("DDS", "RGB", "", {}),
        ("IM", "RGB", "", {}),
    ]
    missing = {kind for kind, has in _OPTIONAL.items() if has not in features.get_supported()}
    Image.init()
    for kind, mode, name, options in variants:
        if kind in missing or kind not in Image.SAVE:
            continue
        for picture in (photo.resize((150, 100)), Image.fromarray(golden_image(5, 64, 96))):
            image = _converted(picture, mode)
            if "save_all" in options:
                options = options | {"append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            yield f"{kind} {name}".strip(), buffer.getvalue()


_OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.quantize(64) if mode == "P" else image.convert(mode)


def damaged(
    whole: Sequence[Item], count: int, rng: np.random.Generator, start: int = 0, stop: int = -1
) -> list[Item]:
    """Files cut short and files with 1 to 16 flipped bits, in turn, each of a whole one in turn.

    Half of the flipped ones have all flips in their first 512 bytes, where the headers are.

    Args:
        whole: kinds and bytes of whole files.
        count: how many to make.
        rng: decides where.
        start: first byte that a flip may hit.
        stop: the byte behind the last one; the file's end if negative.
    """
    items = []
    for index in range(count):
        kind, data = whole[index // 2 % len(whole)]
        if index % 2 == 0 and not start:
            items.append((f"{kind}, cut", data[: rng.integers(0, len(data))]))
            continue
        last = len(data) if stop < 0 else stop
        if rng.integers(2):
            last = min(last, start + 512)
        broken = bytearray(data)
        for _ in range(rng.integers(1, 17)):
            broken[rng.integers(start, last)] ^= 1 << int(rng.integers(8))
        items.append((f"{kind}, flipped", bytes(broken)))
    return items


def resealed(model: bytes, count: int, rng: np.random.Generator) -> list[Item]:
    """Models with 1 to 4 flipped bits whose SHA-256 was computed again: a forger's, or bad luck.

    All lie in the graph; of every second file they spare the weights, and hit nodes, attributes,
    names and shapes.
    """
    digits = find_sha256(model)
    assert digits is not None
    graph = next((start, end) for key, start, end in fields(model, 0, len(model)) if key == _GRAPH)
    weights = [
        part[1:]
        for tensor in fields(model, *graph)
        if tensor[0] == _INITIALIZER
        for part in fields(model, *tensor[1:])
        if part[0] == _RAW_DATA
    ]
    inside = np.zeros(len(model), bool)
    inside[slice(*graph)] = True
    for start, end in weights:
        inside[start:end] = False
    structure = np.flatnonzero(inside)
    items = []
    for index in range(count):
        broken = bytearray(model)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.choice(structure) if index % 2 else rng.integers(*graph))
            broken[at] ^= 1 << int(rng.integers(8))
        try:
            place = find_sha256(bytes(broken))
        except ValueError:
            place = None
        if place is None:  # the outermost fields are broken: refused without a look at the digits
            place = digits
        digest = file_sha256(bytes(broken), place).encode()
        kind = "all but weights" if index % 2 else "anywhere"
        items.append((kind, bytes(broken[: place.start]) + digest + bytes(broken[place.stop :])))
    return items


def archived(archive: Path, suffix: str) -> Iterator[Item]:
    """The files of an archive by name."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(suffix) and (file := tar.extractfile(member)):
                yield Path(member.name).stem, file.read()


def show(title: str, outcomes: Sequence[Outcome]) -> None:
    """Print how many came to what, by kind where there are several, with the worst of each."""
    results = Counter(outcome.result for outcome in outcomes)
    total = ", ".join(f"{count} {name}" for name, count in results.most_common())
    slowest = max(outcome.seconds for outcome in outcomes)
    memory = max(outcome.memory for outcome in outcomes)
    print(f"| {title} | {len(outcomes)} | {total} | {slowest:.2f} s | {memory} MB |", flush=True)


def unexpected(outcomes: Sequence[Outcome], expected: Sequence[str]) -> int:
    """Print every outcome that should not be, and count them."""
    found = [outcome for outcome in outcomes if outcome.result not in expected]
    for outcome in found:
        print(f"UNEXPECTED {outcome.kind}: {outcome.result} {outcome.said[:200]}")
    return len(found)


def reasons(outcomes: Sequence[Outcome]) -> None:
    """Print who refused the models: our own checks, ONNX Runtime at loading, or its first run."""
    marks = {
        "SHA-256": "its SHA-256 is not",
        "not a model": "not an ONNX model",
        "metadata": "damaged metadata",
        "foreign": "without nin-edge's metadata",
        "newer format": "model format",
        "graph check": "refused before it is run",
        "ONNX Runtime, loading": "cannot load it",
        "first image": "first image",
        "outputs": ": outputs ",
    }
    counts = Counter(
        next((name for name, mark in marks.items() if mark in outcome.said), outcome.said[:80])
        for outcome in outcomes
        if outcome.result == "ModelFileError"
    )
    print("  refused by:", ", ".join(f"{name} {count}" for name, count in counts.most_common()))


def upright(data: Path) -> int:
    """EXIF photos of one scene: print how far their answers lie apart, and count other answers."""
    items = list(archived(data / "exif-orientation.tar", ".jpg"))
    outcomes = list(tried(try_image, items, CHUNK))
    show("EXIF orientations", outcomes)
    wrong = unexpected(outcomes, ["prediction"])
    for scene in sorted({name.split("_")[0] for name, _ in items}):
        photos = {one.kind: one for one in outcomes if one.kind.split("_")[0] == scene}
        first = photos[f"{scene}_0"]
        same = sum(photo.said == first.said for photo in photos.values())
        apart = max(
            np.abs(np.subtract(photo.scores, first.scores)).max() for photo in photos.values()
        )
        print(f"  {scene}: {same} of {len(photos)} say {first.said!r}, at most {apart:.4f} apart")
        wrong += len(photos) - same
    return wrong


def main() -> None:
    """Try everything and print the table; exit code 1 if anything came to what it should not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("NIN_EDGE_TEST_DATA"))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    wrong = 0
    print(describe("onnxruntime", "numpy", "pillow"))
    print("| input | number | came to | slowest | largest process |\n|---|---|---|---|---|")
    if asked.data:
        outcomes = list(
            tried(try_image, list(archived(asked.data / "pngsuite.tar.xz", ".png")), CHUNK)
        )
        show("PngSuite", outcomes)
        wrong += unexpected(outcomes, ["prediction", "ImageError"])
        wrong += upright(asked.data)
    items = damaged(list(photos()), asked.images, rng)
    outcomes = list(tried(try_image, items, CHUNK))
    for end in ("cut", "flipped"):
        show(f"images, {end}", [one for one in outcomes if one.kind.endswith(end)])
    wrong += unexpected(outcomes, ["prediction", "ImageError"])
    model = DEFAULT_MODEL.read_bytes()
    outcomes = list(tried(try_model, damaged([("model", model)], asked.models, rng), 1))
    for end in ("cut", "flipped"):
        show(f"models, {end}", [one for one in outcomes if one.kind.endswith(end)])
    reasons(outcomes)
    wrong += unexpected(outcomes, ["ModelFileError"])
    outcomes = list(tried(try_model, resealed(model, asked.models, rng), 1))
    for kind in ("anywhere", "all but weights"):
        show(f"models, re-sealed, {kind}", [one for one in outcomes if one.kind == kind])
    reasons(outcomes)
    (whole,) = tried(try_model, [("whole", model)], 1)
    answered = [one for one in outcomes if one.result == "prediction"]
    labels = read_model(model)[1].labels
    same = sum(one.said == whole.said for one in answered)
    known = sum(one.said in labels for one in answered)
    print(
        f"  answered: {same} of {len(answered)} the whole file's label, {known} one of its labels"
    )
    wrong += unexpected(outcomes, ["ModelFileError", "prediction"])
    print(f"{wrong} of all came to something else")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()

"""The page in Chromium: it answers what the runtime answers, and says what it cannot do.

One session of the browser does all of it (`runtime/js/chromium/checks.js`); the tests judge what it
saw.
"""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from benchmarks import _browser
from nin_edge.web import write_page
from nin_edge_runtime import DEFAULT_MODEL, Classifier
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.heatmap import _LEVELS, _OPACITY, _heat
from nin_edge_runtime.image import load_image

SAME = 1e-5
"""Largest difference of a probability, given the same pixels; measured 3e-7."""

BLENDED = 0.02
"""The same, where the browser lays transparency over white with another rounding."""

MODELS = ("format-1.fp32.onnx", "grey-none.fp32.onnx")  # all of them run in Node, too
ORIENTATIONS = range(1, 9)
IMAGES = 6
TRANSPARENT = IMAGES - 1
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Session:
    """What the browser was given, and what it saw."""

    task: dict[str, Any]
    found: dict[str, Any]

    def files(self, name: str) -> list[Path]:
        return [Path(path) for path in self.task[name]]


@pytest.fixture(scope="session")
def session(
    chromium: None,
    make_once: Callable[[str, Callable[[Path], object]], Path],
    request: pytest.FixtureRequest,
    tiny_model: Path,
    photo: Path,
) -> Session:
    try:
        cifar = [str(path) for path in request.getfixturevalue("cifar_files")[::10]]
    except pytest.skip.Exception:
        cifar = []

    def visit(folder: Path) -> None:
        write_page(DEFAULT_MODEL, folder / "site", onnxruntime_web=_browser.ONNXRUNTIME_WEB)
        task = {
            "site": str(folder / "site"),
            "photo": str(photo),
            "images": [*drawn_images(folder), *cifar],
            "upright": rotated_images(folder),
            "bad": bad_files(folder, tiny_model, photo),
            "models": {name: str(tiny_model.with_name(name)) for name in MODELS},
        }
        found = _browser.run("checks.js", task, folder)
        (folder / "found.json").write_text(json.dumps(found), "utf-8")

    folder = make_once("page", visit)
    task, found = (json.loads((folder / f"{name}.json").read_text()) for name in ("task", "found"))
    return Session(task, found)


def drawn_images(folder: Path) -> list[str]:
    """Golden images of other seeds than the models', the last with transparency."""
    paths = [folder / f"drawn {index}.png" for index in range(IMAGES)]
    for index, path in enumerate(paths):
        image = Image.fromarray(golden_image(100 + index, 30 + 22 * index, 90 - 10 * index))
        if index == TRANSPARENT:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)
    return list(map(str, paths))


def rotated_images(folder: Path) -> list[str]:
    """JPEGs with every EXIF orientation."""
    paths = [folder / f"orientation {turn}.jpg" for turn in ORIENTATIONS]
    for turn, path in zip(ORIENTATIONS, paths, strict=True):
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = turn
        Image.fromarray(golden_image(3, 50, 90)).save(path, quality=90, exif=exif)
    return list(map(str, paths))


def bad_files(folder: Path, model: Path, photo: Path) -> dict[str, str]:
    sound, jpeg = model.read_bytes(), photo.read_bytes()
    altered = bytearray(sound)
    altered[len(sound) // 2] ^= 1
    contents = {
        "huge.png": claiming_png(20_000, 10_000),
        "notes.jpg": b"Not an image.\n",
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "empty.png": b"",
        "torn.jpg": jpeg[:3000],
        "newer.onnx": sound.replace(
            b"nin_edge.format_version\x12\x011", b"nin_edge.format_version\x12\x012"
        ),
        "altered.onnx": bytes(altered),
        "torn.onnx": sound[:9000],
        "foreign.onnx": sound.replace(b"nin_edge.", b"our_tool."),
    }
    for name, content in contents.items():
        assert content not in (sound, jpeg)
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in contents}


def claiming_png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, which compresses to next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width // 8 + 1) * height), 1)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


@pytest.fixture(scope="module")
def classify() -> Classifier:
    return Classifier(provider="cpu", threads=1)


def differences(given: list[list[float]], paths: list[Path], classify: Classifier) -> np.ndarray:
    """Largest difference to the runtime's probabilities, for each image."""
    expected = np.stack([classify(load_image(path)).probabilities for path in paths])
    assert np.shape(given) == expected.shape
    assert np.array_equal(np.argmax(given, 1), expected.argmax(1))
    return np.abs(np.array(given) - expected).max(1)


# --- answers --------------------------------------------------------------------------------------


def test_images_get_the_runtimes_probabilities(session: Session, classify: Classifier) -> None:
    paths = session.files("images")
    found = differences(session.found["plain"]["batch"]["probabilities"], paths, classify)
    assert np.delete(found, TRANSPARENT).max() <= SAME
    assert found[TRANSPARENT] <= BLENDED


@pytest.mark.usefixtures("cifar_files")
def test_a_hundred_test_images_of_cifar_were_among_them(session: Session) -> None:
    cifar = session.task["images"][IMAGES:]
    assert len(cifar) == 100
    assert len({Path(path).name.split("-")[0] for path in cifar}) == 10


def test_exif_rotations_are_applied(session: Session, classify: Classifier) -> None:
    found = differences(session.found["upright"], session.files("upright"), classify)
    assert found.max() <= SAME


def test_every_golden_sample_is_reproduced(session: Session) -> None:
    shown = {
        "one thread": session.found["plain"]["verified"],
        "several threads": session.found["verified"],
        **session.found["models"],
    }
    assert len(shown) == 4
    for name, text in shown.items():
        match = re.fullmatch(
            r"As exported: 8 golden samples within (\S+) \(tolerance \S+\)\.", text
        )
        assert match, f"{name}: {text}"
        assert float(match[1]) <= SAME


def test_the_class_map_lies_on_the_crop_as_the_runtime_draws_it(
    session: Session, classify: Classifier, photo: Path
) -> None:
    shown = session.found["photo"]
    prediction = classify(photo)
    (left, top, right, bottom), (height, width, _) = prediction.crop, load_image(photo).shape
    box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
    assert shown["shares"] == pytest.approx(box, abs=0.005)
    side = round(len(shown["opacity"]) ** 0.5)
    places = (np.arange(side) + 0.5) / side
    heat = _heat(prediction.class_map, places, places, classify.info.preprocessing.size)
    opacity = np.array(shown["opacity"]).reshape(side, side)
    line = opacity == 255  # around the hotter half
    assert 0 < line.mean() < 0.05
    expected = 255 * np.interp(heat, _LEVELS, _OPACITY)
    assert np.abs(opacity - expected)[~line].max() <= 1


def test_a_photo_gets_bars_and_a_time(session: Session, photo: Path, classify: Classifier) -> None:
    shown = session.found["plain"]
    best = classify(photo).top(5)
    assert [re.sub(r"[\d.]+%$", "", bar) for bar in shown["bars"]] == [label for label, _ in best]
    assert shown["answer"] == "{} {:.1%}".format(*best[0])
    assert shown["status"] == f"{photo.name}: {shown['answer']}"
    assert re.match(r"[\d.]+ ms, without decoding; threads: 1", shown["latency"])


def test_pasted_and_dropped_files_are_classified(session: Session) -> None:
    assert session.found["paste"].startswith("paste.jpg: cat 9")
    assert session.found["drop"].startswith("drop.jpg: cat 9")


def test_the_batch_is_a_csv_file(session: Session) -> None:
    batch = session.found["plain"]["batch"]
    rows = list(csv.DictReader(io.StringIO(batch["csv"], newline="")))[2:]  # after the keyboard's
    assert batch["name"] == "labels.csv"
    assert batch["error"] == ""
    assert [row["image"] for row in rows] == [path.name for path in session.files("images")]
    scores = [max(row) for row in batch["probabilities"]]
    assert [float(row["score"]) for row in rows] == pytest.approx(scores)
    assert {row["unknown"] for row in rows} == {"false"}


# --- what the certificate says --------------------------------------------------------------------


def test_a_smallest_score_shows_its_coverage_and_accuracy(
    session: Session, classify: Classifier
) -> None:
    thresholds = classify.info.certificate.thresholds
    assert thresholds is not None
    answers = {answer.min_score: answer for answer in thresholds.answers}
    shown = session.found["minScore"]
    for typed, measured in (("0.9", 0.9), ("0.755", 0.7)):
        answer = answers[measured]
        assert answer.top1 is not None
        text = shown[typed]["coverage"]
        assert text.startswith(f"Measured at {measured}: {answer.coverage:.1%} of 1,000 hold-out")
        assert f"{answer.top1:.1%} of their labels are right" in text
    assert shown["0.1"]["coverage"] == "Nothing was measured below a score of 0.5."
    assert shown["2"]["coverage"] == "Expected a score from 0 to 1."
    assert shown["1"]["answer"].startswith("unknown (cat)")
    assert shown["0"]["answer"].startswith("cat")


def test_the_model_is_described(session: Session, classify: Classifier) -> None:
    info, facts = classify.info, session.found["facts"]
    for text in (*info.labels, info.sha256, f"{info.temperature:.4g}; the file applies it"):
        assert text in facts
    assert info.certificate.accuracy is not None
    assert f"{info.certificate.accuracy.top1:.1%}" in facts


# --- where it runs --------------------------------------------------------------------------------


def test_nothing_is_loaded_from_another_host_and_nothing_fails(session: Session) -> None:
    hosts = {urlsplit(url).hostname for url in session.found["requests"] if url[:4] == "http"}
    assert hosts == {"localhost", "page.test"}
    assert session.found["errors"] == []


def test_without_a_secure_context_it_classifies_and_says_what_is_missing(session: Session) -> None:
    plain = session.found["plain"]
    assert plain["secure"] is False
    assert plain["camera"] is True  # disabled
    assert plain["note"] == "Plain http: the camera and offline use need https or localhost."
    assert plain["answer"].startswith("cat 9")


def test_it_works_offline_once_loaded(session: Session) -> None:
    assert session.found["offline"].startswith("cat 9")


def test_threads_are_used_where_the_page_is_isolated(session: Session) -> None:
    one, several = session.found["plain"], session.found["photo"]
    assert one["latency"].endswith("threads: 1")
    assert several["latency"].endswith(f"threads: {min(4, session.found['processors'])}")
    difference = np.subtract(several["probabilities"], one["probabilities"])
    assert np.abs(difference).max() <= SAME


def test_it_is_used_by_keyboard_and_screen_reader_on_a_phone(session: Session) -> None:
    keyboard = session.found["plain"]["keyboard"]
    assert keyboard["reached"] == ["files", "min-score", "verify"]
    assert keyboard["several"] is True
    assert keyboard["current"] == "true"
    for line in (
        'heading "What is in the image?" [level=1]',
        'button "Choose images"',
        'button "Camera" [disabled]',
        'img "cat.jpg"',
        'img "Where the image speaks for cat"',
        'checkbox "Show what the label is based on" [checked]',
        "table:",
        'spinbutton "Smallest score for an answer"',
        'button "Verify on this device"',
        "status: ",
        "alert",
    ):
        assert line in session.found["plain"]["accessible"], line
    assert session.found["plain"]["overflow"] == 0  # at 360 pixels


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("huge.png", "20000 x 10000 pixels (200 megapixels), expected at most 100 megapixels"),
        ("notes.jpg", "not an image that this browser can decode"),
        ("photo.heic", "HEIC, which this browser cannot decode; save it as JPEG"),
        ("empty.png", "not an image that this browser can decode"),
        ("torn.jpg", "damaged, or more than this device can decode"),
        ("newer.onnx", "model format 2, this nin-edge-js reads up to 1: update it"),
        ("altered.onnx", "damaged or altered since its export: its SHA-256"),
        ("torn.onnx", "not an ONNX model, or a truncated one"),
        ("foreign.onnx", "an ONNX model without nin-edge's metadata"),
    ],
)
def test_a_bad_file_is_one_line(session: Session, name: str, message: str) -> None:
    shown = session.found["bad"][name]
    assert shown.startswith(f"{name}: {message}")
    assert "\n" not in shown


def test_the_page_goes_on_after_bad_files(session: Session) -> None:
    assert session.found["after"].startswith("cat 9")


def test_a_model_that_the_server_lacks_is_one_line(session: Session) -> None:
    assert session.found["noModel"] == "model.onnx: the server answers 404"


def test_the_camera_gives_a_photo_and_keeps_the_focus(session: Session) -> None:
    camera = session.found["camera"]
    assert camera["focus"] == "shoot"
    assert camera["status"].startswith("camera 1.png: ")
    assert camera["live"] is False
    assert camera["back"] == "camera"


def test_a_missing_or_refused_camera_is_one_line(session: Session) -> None:
    assert session.found["noCamera"] == "camera: there is none"
    assert session.found["refused"].startswith("camera: it was refused; allow it")


def test_without_webassembly_the_page_says_so_and_stays(session: Session) -> None:
    message = "this browser has no WebAssembly: the model cannot run here"
    assert session.found["noWebAssembly"] == message
    assert session.found["noAnswer"] == "cat.jpg: there is no model to classify it"

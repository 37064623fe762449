"""The report: right figures, strict JSON, a page that stands alone and shows hostile labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge_export import ExportedModel, ExportOptions, Int8Plan, export_models
from nin_edge_export.report.figures import WORST, Report, measure, to_json
from nin_edge_export.report.html import to_html
from nin_edge_runtime.golden import golden_image

ROUNDING = 1e-9  # of double precision; the answers here are float32
FLOAT32 = 1e-6
SECONDS = 0.01  # of measuring latency: the fewest rounds there are

HOSTILE = ("<script>alert(1)</script>", "a & b\x1b[31m\u202e", "$x_1$ --> \"'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

# Four test images: their classes, and the probabilities of the file and of PyTorch.
TARGETS = np.array([0, 1, 2, 2])
REFERENCE = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.5, 0.2, 0.3], [0.1, 0.5, 0.4]])
ANSWERS = np.float32([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]])


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return Checkpoint.load(tiny_weights)


@pytest.fixture(scope="module")
def bare(checkpoint: Checkpoint) -> list[ExportedModel]:
    """All three precisions, measured on no data."""
    return export_models(checkpoint)


@pytest.fixture
def dataset(checkpoint: Checkpoint, rng: np.random.Generator) -> Dataset:
    """Two images to fit to, then the four to test."""
    every = np.arange(6)
    return Dataset(
        name="four",
        labels=checkpoint.labels,
        images=rng.integers(0, 256, size=(6, 16, 16, 3), dtype=np.uint8),
        targets=np.concatenate([[0, 0], TARGETS]),
        names=tuple(f"image-{index}.png" for index in every),
        train=every[:1],
        holdout=every[1:2],
        test=every[2:],
        unreadable=(),
        fingerprint="",
    )


def _certified(model: ExportedModel, labels: tuple[str, ...], **fields: Any) -> ExportedModel:
    """A model as if it had been measured on the four images."""
    thresholds = {
        **{"data": "four", "split": "holdout", "images": 1, "measured_with": "this file"},
        "temperature": "fitted on these images",
        "answers": [
            {"min_score": 0.5, "coverage": 1.0, "top1": 0.75},
            {"min_score": 0.9, "coverage": 0.0, "top1": None},
        ],
    }
    known = {**model.info.certificate, "images": {"data": "four"}, "thresholds": thresholds}
    info = replace(model.info, certificate=known, labels=labels)
    return replace(model, info=info, answers=ANSWERS, reference=REFERENCE, **fields)


def _plan(*kept: str) -> Int8Plan:
    figures = {
        "holdout_images": 1,
        "fp32_top1": 1.0,
        "int8_top1": 0.998,
        "drop_points": 0.2,
        "max_drop_points": 0.3,
    }
    return Int8Plan(kept, {"stages.0.0": 2e-3, "stages.0.3": 1e-3}, figures)


@pytest.fixture
def measured(bare: list[ExportedModel], checkpoint: Checkpoint) -> list[ExportedModel]:
    """All three, with the hand-made answers; int8 keeps a convolution in float."""
    *others, int8 = bare
    given = [_certified(model, checkpoint.labels) for model in others]
    plan = {"plan": _plan("stages.0.0"), "all_int8": int8.data}
    return [*given, _certified(int8, checkpoint.labels, **plan)]


@pytest.fixture
def report(measured: list[ExportedModel], checkpoint: Checkpoint, dataset: Dataset) -> Report:
    return measure(measured, checkpoint, name="tiny", dataset=dataset, seconds=SECONDS)


def _strict(data: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(data, parse_constant=refuse)


class _Page(HTMLParser):
    """Reads a page, and insists that every element is closed where it should be."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(data.decode("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


# --- the numbers ----------------------------------------------------------------------------------


def test_figures_of_a_file_are_those_of_its_answers(report: Report) -> None:
    file = report.files[-1]
    assert file.images is not None
    assert file.scores is not None
    assert (file.images.count, file.images.top1_agreement) == (4, 0.5)
    assert file.images.max_abs_difference == pytest.approx(0.3, abs=FLOAT32)
    assert file.scores.top1 == 0.5  # the first and the third
    assert file.scores.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    # Confidences 0.8, 0.5, 0.6 and 0.5, the second and the last in one bin.
    expected = (abs(1 - 0.8) + 2 * abs(0 - 0.5) + abs(1 - 0.6)) / 4
    assert file.scores.ece == pytest.approx(expected, abs=FLOAT32)


def test_calibration_before_is_without_the_temperature(report: Report) -> None:
    file = report.files[0]
    assert file.info.temperature == 1.5
    assert file.before is not None
    powers = ANSWERS.astype(np.float64) ** 1.5
    confidence = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    found = np.nan_to_num(file.before.confidence) @ file.before.count
    assert found == pytest.approx(confidence.sum(), abs=ROUNDING)


def test_sizes_and_latencies_are_relative_to_fp32(
    report: Report, measured: list[ExportedModel]
) -> None:
    files = _strict(to_json(report))["files"]
    assert [file["bytes"] for file in files] == [len(model.data) for model in measured]
    assert [file["sha256"] for file in files] == [model.info.sha256 for model in measured]
    for file in files:
        size, latency = files[0]["bytes"], files[0]["latency_p50_ms"]
        assert file["relative_size"] == pytest.approx(file["bytes"] / size, abs=ROUNDING)
        relative = file["latency_p50_ms"] / latency
        assert file["relative_latency"] == pytest.approx(relative, abs=ROUNDING)
        assert 0 < file["latency_p50_ms"] < 1e3


def test_machine_is_named(report: Report) -> None:
    machine = report.machine
    assert machine.cpu.endswith("CPUs")
    assert re.match(r"\d+\.\d+", machine.onnxruntime)
    assert (machine.threads, machine.images) == (1, 1)
    assert machine.rounds >= 3


def test_fixed_batch_is_said(checkpoint: Checkpoint) -> None:
    models = export_models(checkpoint, ExportOptions(precisions=("fp32",), batch=2))
    report = measure(models, checkpoint, name="tiny", seconds=SECONDS)
    assert report.machine.images == 2
    assert "the fixed batch of 2 images" in _Page(to_html(report)).text


def test_worst_disagreements_come_first(report: Report, dataset: Dataset) -> None:
    found = report.disagreements
    assert found is not None
    assert (found.precision, found.count) == ("int8", 2)
    third, second = found.worst
    assert (third.image, second.image) == ("image-4.png", "image-3.png")
    assert (third.label, third.pytorch, third.file) == ("étoile", "circle", "étoile")
    assert third.pytorch_probability == 0.5
    assert third.file_probability == pytest.approx(0.6, abs=FLOAT32)
    assert third.difference == pytest.approx(0.3, abs=FLOAT32)
    assert second.difference == pytest.approx(0.2, abs=FLOAT32)


def test_disagreements_are_shown_as_the_network_sees_them(
    report: Report, dataset: Dataset, tmp_path: Path
) -> None:
    assert report.disagreements is not None
    (tmp_path / "seen.png").write_bytes(report.disagreements.worst[0].png)
    with Image.open(tmp_path / "seen.png") as image:
        np.testing.assert_array_equal(np.asarray(image), dataset.images[4])


def test_no_more_disagreements_than_a_page_can_show(
    bare: list[ExportedModel], checkpoint: Checkpoint, dataset: Dataset
) -> None:
    count = 30
    images = np.stack([golden_image(seed, 16, 16) for seed in range(count)])
    every = np.arange(count)
    many = replace(
        dataset,
        images=images,
        targets=every % 3,
        names=tuple(map(str, every)),
        test=every,
    )
    model = _certified(bare[-1], checkpoint.labels)
    model = replace(
        model,
        reference=np.tile([0.6, 0.4, 0.0], (count, 1)),
        answers=np.tile(np.float32([0.4, 0.6, 0.0]), (count, 1)),
    )
    found = measure([model], checkpoint, name="x", dataset=many, seconds=SECONDS).disagreements
    assert found is not None
    assert (found.count, len(found.worst)) == (count, WORST)


# --- the JSON -------------------------------------------------------------------------------------


def test_json_is_strict_and_complete(report: Report) -> None:
    value = _strict(to_json(report))
    assert set(value) == {
        *("name", "data", "trained", "machine", "files", "int8", "disagreements"),
    }
    assert (value["name"], value["data"]) == ("tiny", "four")
    assert set(value["files"][0]) == {
        *("precision", "sha256", "bytes", "relative_size", "latency_p50_ms", "relative_latency"),
        *("temperature", "float_layers", "golden", "agreement", "scores", "uncalibrated"),
        "thresholds",
    }
    assert value["files"][0]["thresholds"]["answers"][0]["coverage"] == 1.0
    scores = value["files"][-1]["scores"]
    assert scores["confusion"] == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    assert len(scores["calibration"]) == 15
    assert scores["calibration"][0] == {"count": 0, "confidence": None, "accuracy": None}
    assert value["int8"]["sensitivity"] == {"stages.0.0": 2e-3, "stages.0.3": 1e-3}
    assert value["int8"]["keep_float"] == ["stages.0.0"]
    assert value["int8"]["all_int8_latency_ms"] > 0
    assert value["int8"]["budget"]["drop_points"] == 0.2
    assert value["disagreements"]["count"] == 2
    assert "png" not in value["disagreements"]["worst"][0]


def test_json_says_what_was_not_measured(bare: list[ExportedModel], checkpoint: Checkpoint) -> None:
    value = _strict(to_json(measure(bare, checkpoint, name="tiny", seconds=SECONDS)))
    assert value["data"] == value["int8"] == value["disagreements"] == "not measured"
    for file in value["files"]:
        for part in ("scores", "agreement", "uncalibrated", "thresholds"):
            assert file[part] == "not measured"
        assert file["golden"]["count"] == 8


def test_without_fp32_nothing_is_relative(
    bare: list[ExportedModel], checkpoint: Checkpoint
) -> None:
    report = measure(bare[1:], checkpoint, name="tiny", seconds=SECONDS)
    assert _strict(to_json(report))["files"][0]["relative_size"] is None
    assert "of fp32" not in _Page(to_html(report)).text.replace("size of fp16", "")


# --- the page -------------------------------------------------------------------------------------


def test_page_has_all_parts(report: Report) -> None:
    page = _Page(to_html(report))
    # Three calibration curves, three matrices, the bars; two pictures; headings.
    assert (page.count("svg"), page.count("figure"), page.count("figcaption")) == (7, 7, 7)
    assert (page.count("img"), page.count("title"), page.count("caption")) == (2, 1, 2)
    for shown in ("fp32", "fp16", "int8", "four", "50.00%", "étoile 60%", "0.300", "image-4.png"):
        assert shown in page.text
    assert re.search(r"stages\.0\.0 stayed in float.*That costs -?\d+\.\d\d ms", page.text)
    assert "not measured" not in page.text.replace("after trainingnot measured", "")


def test_page_says_what_a_score_gives(report: Report) -> None:
    text = _Page(to_html(report)).text
    assert "Measured on the 1 held-out images of four, on which the temperature was fitted" in text
    for row in ("0.5" + 3 * "100.00%75.00% right", "0.9" + 3 * "0.00%none"):
        assert row in text


def test_page_says_that_training_measured_what_a_score_gives(
    bare: list[ExportedModel], checkpoint: Checkpoint
) -> None:
    by_training = {
        **{"data": "shapes", "split": "holdout", "images": 20, "measured_with": "PyTorch, fp32"},
        "temperature": "fitted in training",
        "answers": [{"min_score": 0.7, "coverage": 0.5, "top1": 0.9}],
    }
    models = []
    for model in bare:
        known = {**model.info.certificate, "thresholds": by_training}
        models.append(replace(model, info=replace(model.info, certificate=known)))
    text = _Page(to_html(measure(models, checkpoint, name="tiny", seconds=SECONDS))).text
    assert re.search(r"min-scorePyTorch, fp32\s+0\.750\.00%90\.00% right\s", text)
    assert "20 held-out images of shapes;" in text


def test_page_stands_alone(report: Report) -> None:
    page = _Page(to_html(report))
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#"))
            assert not name.startswith("on")
            assert "url(" not in (value or "") or "url(#" in (value or "")
    assert "@import" not in to_html(report).decode()


def test_page_describes_its_pictures(report: Report) -> None:
    page = _Page(to_html(report))
    assert all(given.get("alt") for tag, given in page.tags if tag == "img")
    assert all(given.get("aria-label") for tag, given in page.tags if tag == "svg")
    assert dict(page.tags)["html"] == {"lang": "en"}


def test_ids_on_the_page_are_different_and_all_there(report: Report) -> None:
    text = to_html(report).decode()
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }


def test_hostile_text_is_shown_and_not_obeyed(
    bare: list[ExportedModel], checkpoint: Checkpoint, dataset: Dataset
) -> None:
    model = _certified(bare[-1], HOSTILE, plan=_plan())
    nasty = replace(dataset, labels=HOSTILE, names=tuple(f"{HOSTILE[0]}{n}" for n in range(6)))
    model.info.certificate["images"]["data"] = HOSTILE[0]
    report = measure([model], checkpoint, name=HOSTILE[0], dataset=nasty, seconds=SECONDS)
    data = to_html(report)
    page = _Page(data)
    assert page.count("script") == 0
    assert b"<script" not in data
    assert b"\x1b" not in data
    assert "\u202e" not in data.decode()
    for shown in (HOSTILE[0], r"a & b\x1b[31m\u202e", HOSTILE[2]):
        assert shown in page.text
    assert _strict(to_json(report))["name"] == HOSTILE[0]


def test_page_says_what_was_not_measured_and_how_to_get_it(
    bare: list[ExportedModel], checkpoint: Checkpoint
) -> None:
    page = _Page(to_html(measure(bare, checkpoint, name="tiny", seconds=SECONDS)))
    assert page.count("svg") == page.count("img") == 0
    missing = ("calibration curve", "min-score", "confusion matrix", "sensitivity")
    for what in (*missing, "answer otherwise"):
        assert re.search(rf"{what}.*: not measured\. To get it, .*--eval-data DATA", page.text)


def test_page_says_that_all_answers_are_equal(
    bare: list[ExportedModel], checkpoint: Checkpoint, dataset: Dataset
) -> None:
    model = replace(_certified(bare[0], checkpoint.labels), answers=np.float32(REFERENCE))
    report = measure([model], checkpoint, name="tiny", dataset=dataset, seconds=SECONDS)
    page = _Page(to_html(report))
    assert "None: fp32 gives the same answer everywhere" in page.text
    assert "layer by layer" not in page.text  # there is no int8 file


def test_page_without_a_temperature_has_one_curve(
    bare: list[ExportedModel], checkpoint: Checkpoint, dataset: Dataset
) -> None:
    model = _certified(bare[0], checkpoint.labels)
    model = replace(model, info=replace(model.info, temperature=1.0))
    report = measure([model], checkpoint, name="tiny", dataset=dataset, seconds=SECONDS)
    assert report.files[0].before is None
    page = _Page(to_html(report))
    assert "No temperature was fitted" in page.text
    assert "no temperature" in page.text


def test_page_without_a_kept_convolution_says_so(
    bare: list[ExportedModel], checkpoint: Checkpoint, dataset: Dataset
) -> None:
    model = _certified(bare[-1], checkpoint.labels, plan=_plan())
    report = measure([model], checkpoint, name="tiny", dataset=dataset, seconds=SECONDS)
    assert report.all_int8_ms is None
    assert "Every convolution is in int8" in _Page(to_html(report)).text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1200, 500])
def test_page_opens_in_a_browser(report: Report, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_bytes(to_html(report))
    quiet = ("background-networking", "component-update", "sync", "gpu", "quic")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--no-first-run"),
            *(f"--disable-{what}" for what in quiet),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},2000",
            f"--screenshot={tmp_path / 'page.png'}",
            "--enable-logging=stderr",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "CONSOLE" not in done.stderr  # where it would say what it refused to load
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (width, 2000)
        pixels = np.asarray(image.convert("RGB"))
    accent = np.abs(pixels.astype(int) - (9, 105, 218)).max(axis=2) <= 8
    assert accent.sum() > 500  # curves and bars are drawn, in the page's colour

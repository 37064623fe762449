"""The report's page: it has every part, stands alone, and shows hostile text as text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.metrics import wilson_interval
from nin_edge_export import ExportedModel
from nin_edge_export.report import Report, measure, to_html, to_json
from nin_edge_runtime.model_file.certificate import Threshold, Thresholds

from .conftest import REFERENCE, certified, int8_plan, with_thresholds

HOSTILE = ("<script>alert(1)</script>", "a & b\x1b[31m\u202e", "$x_1$ --> \"'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture(scope="module")
def html(report: Report) -> bytes:
    return to_html(report)


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


def test_page_has_all_parts(html: bytes) -> None:
    page = _Page(html)
    # Three calibration curves, three matrices, the bars; two pictures; headings.
    assert (page.count("svg"), page.count("figure"), page.count("figcaption")) == (7, 7, 7)
    assert (page.count("img"), page.count("title"), page.count("caption")) == (2, 1, 2)
    for shown in ("fp32", "fp16", "int8", "four", "50.00%", "étoile 60%", "0.300", "image-4.png"):
        assert shown in page.text
    low, high = wilson_interval(2, 4)
    interval = f"95% interval {low:.2%} to {high:.2%}"
    assert f"an accuracy of 50.00% ({interval})" in page.text
    assert f"50.00%{interval}" in page.text  # in the table of files
    assert re.search(r"stages\.0\.0 stayed in float.*That costs -?\d+\.\d\d ms", page.text)
    assert "not measured" not in page.text.replace("after trainingnot measured", "")


def test_page_says_what_a_score_gives(html: bytes) -> None:
    text = _Page(html).text
    assert "Measured on the 1 held-out images of four, on which the temperature was fitted" in text
    for row in ("0.5" + 3 * "100.00%75.00% correct", "0.9" + 3 * "0.00%none"):
        assert row in text


def test_page_says_that_training_measured_what_a_score_gives(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint
) -> None:
    by_training = Thresholds(
        *("shapes", "holdout", 20, "PyTorch, fp32", "fitted in training"),
        answers=(Threshold(0.7, 0.5, 0.9),),
    )
    models = [with_thresholds(model, by_training) for model in unmeasured.values()]
    text = _Page(to_html(measure(models, checkpoint, name="tiny"))).text
    assert re.search(r"min-scorePyTorch, fp32\s+0\.750\.00%90\.00% correct\s", text)
    assert "20 held-out images of shapes;" in text


def test_page_stands_alone(html: bytes) -> None:
    page = _Page(html)
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#"))
            assert not name.startswith("on")
            assert "url(" not in (value or "") or "url(#" in (value or "")
    assert b"@import" not in html


def test_page_describes_its_pictures(html: bytes) -> None:
    page = _Page(html)
    assert all(given.get("alt") for tag, given in page.tags if tag == "img")
    assert all(given.get("aria-label") for tag, given in page.tags if tag == "svg")
    assert dict(page.tags)["html"] == {"lang": "en"}


def test_ids_on_the_page_are_different_and_all_there(html: bytes) -> None:
    text = html.decode()
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }


def test_hostile_text_is_shown_and_not_obeyed(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint, four_images: Dataset
) -> None:
    model = certified(unmeasured["int8"], HOSTILE, data=HOSTILE[0], plan=int8_plan())
    nasty = replace(four_images, labels=HOSTILE, names=tuple(f"{HOSTILE[0]}{n}" for n in range(6)))
    report = measure([model], checkpoint, name=HOSTILE[0], dataset=nasty)
    data = to_html(report)
    page = _Page(data)
    assert page.count("script") == 0
    assert b"<script" not in data
    assert b"\x1b" not in data
    assert "\u202e" not in data.decode()
    for shown in (HOSTILE[0], r"a & b\x1b[31m\u202e", HOSTILE[2]):
        assert shown in page.text
    assert json.loads(to_json(report))["name"] == HOSTILE[0]


def test_page_says_what_was_not_measured_and_how_to_get_it(unmeasured_report: Report) -> None:
    page = _Page(to_html(unmeasured_report))
    assert page.count("svg") == page.count("img") == 0
    missing = ("calibration curve", "min-score", "confusion matrix", "sensitivity")
    for what in (*missing, "predict different classes"):
        assert re.search(rf"{what}.*: not measured\. To get it, .*--eval-data DATA", page.text)


def test_page_says_that_all_answers_are_equal(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint, four_images: Dataset
) -> None:
    model = replace(
        certified(unmeasured["fp32"], checkpoint.labels), probabilities=np.float32(REFERENCE)
    )
    report = measure([model], checkpoint, name="tiny", dataset=four_images)
    page = _Page(to_html(report))
    assert "None: fp32 predicts the same class for every image" in page.text
    assert "layer by layer" not in page.text  # there is no int8 file


def test_page_without_a_temperature_has_one_curve(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint, four_images: Dataset
) -> None:
    model = certified(unmeasured["fp32"], checkpoint.labels)
    model = replace(model, info=replace(model.info, temperature=1.0))
    report = measure([model], checkpoint, name="tiny", dataset=four_images)
    assert report.files[0].uncalibrated is None
    page = _Page(to_html(report))
    assert "No temperature was fitted" in page.text
    assert "no temperature" in page.text


def test_page_without_a_kept_convolution_says_so(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint, four_images: Dataset
) -> None:
    model = certified(unmeasured["int8"], checkpoint.labels, plan=int8_plan())
    report = measure([model], checkpoint, name="tiny", dataset=four_images)
    assert report.all_int8_ms is None
    assert "Every convolution is in int8" in _Page(to_html(report)).text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1200, 500])
def test_page_opens_in_a_browser(html: bytes, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_bytes(html)
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

"""Pictures: real files, with nothing outside themselves, of any labels."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from nin_edge import plots
from nin_edge.metrics import Calibration, Epoch
from nin_edge.plots import (
    COLOURS,
    calibration_figure,
    confusion_figure,
    curves_figure,
    sensitivity_figure,
    to_png,
    to_svg,
)

CONFUSION = np.array([[31, 4], [0, 27]])


def test_confusion_is_drawn_as_png() -> None:
    image = Image.open(io.BytesIO(to_png(confusion_figure(["a", "b"], CONFUSION, "title"))))
    assert image.format == "PNG"
    assert image.getpixel((0, 0)) == (255, 255, 255, 255)


def test_curves_name_the_best_epoch() -> None:
    scores = ((0.5, 0.9), (0.75, 0.6), (0.7, 0.5), (0.6, 0.8))  # top-1 and loss
    history = [
        Epoch(epoch, 2 / epoch, top1, loss, images_per_second=100.0, seconds=float(epoch))
        for epoch, (top1, loss) in enumerate(scores, start=1)
    ]
    for rows, shown in ((history, "70.00% in epoch 3"), (history[:1], "50.00% in epoch 1")):
        figure = curves_figure(rows, "shapes", held_out=200)
        svg = to_svg(figure, "", "x").replace("&#160;", " ")
        for words in (shown, ">training<", ">hold-out<"):
            assert words in svg
        assert Image.open(io.BytesIO(to_png(figure))).format == "PNG"


def test_curves_of_a_run_without_a_holdout_have_the_training_loss_alone() -> None:
    history = [Epoch(epoch, 2 / epoch, None, None, 100.0, float(epoch)) for epoch in (1, 2)]
    svg = to_svg(curves_figure(history, held_out=0), "", "x")
    assert ">training<" in svg
    assert ">hold-out<" not in svg


def test_confusion_is_drawn_as_svg_with_its_numbers_and_names() -> None:
    svg = to_svg(confusion_figure(["$a$ & b", "<script>"], CONFUSION), 'of "two"', "x")
    assert svg.startswith('<svg role="img" aria-label="of &quot;two&quot;"')
    assert svg.endswith("</svg>")
    for shown in (">31<", ">4<", ">27<", ">$a$ &amp; b<", ">&lt;script&gt;<"):
        assert shown in svg
    assert "<script" not in svg
    assert ">predicted class<" in svg.replace("&#160;", " ")
    assert ">0<" not in svg  # an empty cell says it better


def test_names_that_no_font_has_are_numbers_with_a_legend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plots, "find_font", lambda text: None)
    figure = confusion_figure(["cat", "猫"], CONFUSION, "猫 on 犬")
    svg = to_svg(figure, "", "x")
    assert ">猫<" in svg  # a browser has its own fonts
    image = to_png(figure)
    axes = figure.axes[0]
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["cat", "1"]
    assert figure.get_supxlabel() == "1 = \\u732b"
    assert figure.get_suptitle() == "\\u732b on \\u72ac"
    assert Image.open(io.BytesIO(image)).format == "PNG"


def test_names_are_drawn_in_a_font_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(text: str) -> Path:
        assert text == "犬猫"
        return Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf")

    monkeypatch.setattr(plots, "find_font", find)
    figure = confusion_figure(["cat", "猫"], CONFUSION, "犬")
    to_png(figure)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "猫"]
    for text in (figure._suptitle, *axes.get_xticklabels()):  # type: ignore[attr-defined]
        assert text.get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]


def test_common_names_are_drawn_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_font", None)  # not asked
    names = ["cat", "étoile кот"]
    to_png(confusion_figure(names, CONFUSION, "μ"))


def test_svg_has_its_pages_colours_and_fonts() -> None:
    svg = to_svg(confusion_figure(["a", "b"], CONFUSION), "", "x")
    bare = re.sub(r"var\(--\w+, #\w+\)", "", svg)
    assert not [colour for colour in COLOURS.values() if colour in bare]
    assert "font-family" not in svg


def test_svgs_of_one_page_share_no_ids() -> None:
    figures = [confusion_figure(["a", "b"], CONFUSION) for _ in range(2)]
    one, two = (
        set(re.findall(r'\bid="([^"]*)"', to_svg(figure, "", name)))
        for figure, name in zip(figures, "xy", strict=True)
    )
    assert one
    assert not one & two


@pytest.mark.parametrize("classes", [21, 101])
def test_large_confusion_is_a_picture_in_the_svg(classes: int) -> None:
    labels = [f"class {index}" for index in range(classes)]
    svg = to_svg(confusion_figure(labels, np.eye(classes, dtype=np.int64)), "", "x")
    assert "data:image/png;base64," in svg
    assert (">class 3<" in svg) == (classes <= 100)


def test_calibration_skips_empty_bins() -> None:
    nothing = float("nan")
    curve = Calibration(
        count=np.array([0, 4]),
        confidence=np.array([nothing, 0.75]),
        accuracy=np.array([nothing, 0.5]),
    )
    assert "before" not in to_svg(calibration_figure(curve, bins_of=4), "", "x")
    svg = to_svg(calibration_figure(curve, curve, bins_of=4), "", "x")
    assert "nan" not in svg.lower()
    assert ">before<" in svg


@pytest.mark.parametrize(
    ("largest", "unit", "shown"),
    [(2.5, "nats", "2.5"), (2.5e-2, "thousandths", "25"), (2.5e-4, "millionths", "250")],
)
def test_sensitivity_is_in_a_unit_of_its_size(largest: float, unit: str, shown: str) -> None:
    svg = to_svg(sensitivity_figure({"first": largest, "second": 0.0}, ["first"]), "", "x")
    assert unit in svg
    assert f">{shown}, in float<" in svg


def test_sensitivity_of_nothing_is_drawn() -> None:
    assert ">0<" in to_svg(sensitivity_figure({"only": 0.0}, []), "", "x")

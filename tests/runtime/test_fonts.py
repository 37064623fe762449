"""Fonts of the system: which one is found, and that heatmaps are written in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge_runtime import Prediction
from nin_edge_runtime.fonts import find_font
from nin_edge_runtime.heatmap import _caption, _with_text


def predicted(label: str) -> Prediction:
    """A prediction of a label; the rest of it is of no interest here."""
    probabilities = np.ones(1, np.float32)
    return Prediction(label, 0.5, False, (label,), probabilities, np.zeros((8, 8)), (0, 0, 9, 9))


@pytest.fixture(scope="module")
def dejavu() -> Path:
    """A font with Cyrillic and Greek letters, and no Chinese ones."""
    matplotlib = pytest.importorskip("matplotlib", reason="its fonts are tried")
    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder of fonts."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'missing'}:{tmp_path}")
    find_font.cache_clear()
    (tmp_path / "fonts" / "truetype").mkdir(parents=True)
    yield tmp_path / "fonts" / "truetype"
    find_font.cache_clear()


def test_font_with_all_characters_is_found(dejavu: Path, folder: Path) -> None:
    for name in ("A-Bold.ttf", "Regular.TTF"):
        shutil.copy(dejavu, folder / name)
    (folder / "A-broken.ttf").write_bytes(b"no font")
    (folder / "A-note.txt").write_bytes(b"")
    for text in ("кот", "γάτα 99.9%", "chat étoilé"):
        assert find_font(text) == folder / "Regular.TTF"
    for text in ("猫", "кот 猫", "\U0010ffff"):
        assert find_font(text) is None


def test_no_fonts_are_none() -> None:
    assert find_font("кот") is None


@pytest.mark.parametrize("label", ["кот", "γάτα", "кот \x1b[2J"])
def test_heatmap_is_written_in_it(dejavu: Path, folder: Path, label: str) -> None:
    prediction = predicted(label)
    escaped = _caption(prediction)
    assert escaped[0].isascii()
    shutil.copy(dejavu, folder / "font.ttf")
    find_font.cache_clear()
    caption = _caption(prediction)
    assert caption[0] == label.replace("\x1b", "\\x1b")
    photo = np.full((300, 300, 3), 9, np.uint8)
    drawn, before = (np.asarray(_with_text(Image.fromarray(photo), c)) for c in (caption, escaped))
    assert drawn[300:].max() == 255
    assert not np.array_equal(drawn, before)


def test_fonts_are_searched_once_for_a_label_of_any_score(dejavu: Path, folder: Path) -> None:
    shutil.copy(dejavu, folder / "font.ttf")
    for score in (0.5, 0.25, 0.125):
        assert _caption(replace(predicted("кот"), score=score))[2]
    assert find_font.cache_info().misses == 1


def test_labels_that_pillow_can_write_need_no_other_font(dejavu: Path, folder: Path) -> None:
    shutil.copy(dejavu, folder / "font.ttf")
    for label in ("cat", "café", "naïve Übung"):
        caption = _caption(predicted(label))
        assert caption[2] is None

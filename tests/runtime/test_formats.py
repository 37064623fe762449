"""Formats and depths beyond Pillow's own: HEIC, grey of 10 to 14 bits; and the memory they take."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from nin_edge_runtime import Classifier, ImageError
from nin_edge_runtime import image as image_module
from nin_edge_runtime import samples as samples_module
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.image import load_image
from nin_edge_runtime.preprocessing import Preprocessing, center_crop_box

HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(8)
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "I;16", "I", "YCbCr")
COLOUR = Preprocessing(16, 3, mean=(0.5,) * 3, std=(0.25,) * 3)
GREY = Preprocessing(16, 1, mean=(0.5,), std=(0.25,))


# --- HEIC -----------------------------------------------------------------------------------------


@pytest.fixture
def pillow_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """In place of the package: it reads a PNG behind a HEIC header."""

    def open_heif(file: io.BufferedIOBase, name: str | bytes) -> Image.Image:
        file.seek(len(HEIC_HEAD))
        encoded = io.BytesIO(file.read())
        file.close()
        return PngImagePlugin.PngImageFile(encoded)

    def register() -> None:
        Image.register_open("HEIF", open_heif, lambda head: head[4:8] == b"ftyp")

    module = ModuleType("pillow_heif")
    module.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    yield module
    Image.OPEN.pop("HEIF", None)
    if "HEIF" in Image.ID:
        Image.ID.remove("HEIF")


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "IMG_1.jpg", "img_1"])
@pytest.mark.parametrize(
    "convert", [Path, Path.read_bytes, lambda path: io.BytesIO(path.read_bytes())]
)
def test_heic_is_read_by_content_if_the_package_is_there(
    pillow_heif: ModuleType,
    tmp_path: Path,
    encode: Callable[..., bytes],
    scene: np.ndarray,
    name: str,
    convert: Callable[[Path], Path],
) -> None:
    path = tmp_path / name
    path.write_bytes(HEIC_HEAD + encode(scene))
    np.testing.assert_array_equal(load_image(convert(path)), scene)
    path.write_bytes(HEIC_HEAD + b"no image")
    with pytest.raises(ImageError, match=r"HEIC|decoded"):
        load_image(path)


def test_without_the_package_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, classify: Classifier, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(HEIC_HEAD)
    for source in (path, HEIC_HEAD, io.BytesIO(HEIC_HEAD)):
        (result,) = classify.stream([source])
        assert isinstance(result, ImageError)
        assert "HEIC" in str(result)
        assert "pip install pillow-heif" in str(result)


# --- 10 to 14 bits --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "_warned", set())


@pytest.mark.parametrize("depth", [8, 10, 12, 14])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "I", "I;16"])
def test_samples_far_below_the_range_are_warned_of_once(
    depth: int, form: str, encode: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    most = 2**depth - 1
    samples = np.array([[0, most // 2, most - 1]], np.int32 if form == "I" else np.uint16)
    image = Image.fromarray(samples)
    source = encode(image, form) if form in ("PNG", "TIFF") else image
    with caplog.at_level(logging.WARNING):
        load_image(source)
        COLOUR.load(source)
    (record,) = caplog.records
    assert f"{most - 1} of 65535" in record.getMessage()
    assert f"max_value={most}" in record.getMessage()
    caplog.clear()
    scaled = load_image(source, max_value=most)[0, :, 0]
    np.testing.assert_allclose(scaled, [0, 127, 255], atol=1)
    assert load_image(source, max_value=most // 2)[0, :, 0].tolist() == [0, 255, 255]
    assert not caplog.records


@pytest.mark.parametrize(
    "samples", [[[0, 0xFFFF]], [[0, 0]], [[0x4000, 1]]], ids=["bright", "black", "a quarter"]
)
def test_other_samples_are_not_warned_of(
    samples: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    load_image(Image.fromarray(np.array(samples, np.uint16)))
    load_image(Image.fromarray(np.array(samples).clip(0, 9).astype(np.uint8)))
    assert not caplog.records


def test_the_classifier_takes_the_largest_value(tiny_model: Path, classify: Classifier) -> None:
    grey = golden_image(1, 40, 40)[:, :, 0]
    deep = Image.fromarray(grey.astype(np.uint16) * 4)
    ten_bits = Classifier(tiny_model, provider="cpu", threads=1, max_value=255 * 4)
    np.testing.assert_array_equal(ten_bits(deep).probabilities, classify(grey).probabilities)
    for value in (0, -1, 1.5, "1023"):
        with pytest.raises(ValueError, match="max_value"):
            Classifier(tiny_model, max_value=value)  # type: ignore[arg-type]


# --- memory ---------------------------------------------------------------------------------------


def picture(mode: str, height: int, width: int) -> Image.Image:
    """A picture in a mode; some of it transparent, where the mode can be."""
    rgb = Image.fromarray(golden_image(5, height, width))
    if mode.startswith("I"):
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).convert(mode)
    if mode.endswith("A"):
        rgb.putalpha(Image.fromarray(golden_image(6, height, width)[:, :, 0]))
        return rgb.convert(mode) if mode != "PA" else rgb.convert("LA").convert("PA")
    return rgb.convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [COLOUR, GREY], ids=["colour", "grey"])
def test_strips_give_what_the_whole_gives(
    mode: str, steps: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[int] = []
    flattened = image_module._flattened

    def record(image: Image.Image, max_value: int | None) -> Image.Image:
        converted.append(image.width * image.height)
        return flattened(image, max_value)

    monkeypatch.setattr(image_module, "_flattened", record)
    image = picture(mode, 43, 30)
    for orientation in range(1, 9):
        image.getexif()[0x0112] = orientation
        whole, size = steps.load(image)
        upright = load_image(image)
        top, bottom = center_crop_box(*size)[1::2]
        assert bottom - top == 30
        np.testing.assert_array_equal(whole, steps.resize(upright))
        with monkeypatch.context() as patch:
            patch.setattr(samples_module, "_STRIP_PIXELS", 100)
            converted.clear()
            np.testing.assert_array_equal(steps.load(image)[0], whole)
            assert len(converted) == 10
            np.testing.assert_array_equal(load_image(image), upright)
            assert max(converted) <= 100

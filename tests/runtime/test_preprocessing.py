"""The crop, the resizing and the normalisation: Pillow's results, for every input and view."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.image import load_image
from nin_edge_runtime.preprocessing import Preprocessing, center_crop_box

FLOAT_TOLERANCE = 1e-6
"""Largest difference of a normalised pixel from its formula."""
DRAFT_PIXEL_TOLERANCE = 2
"""Largest difference of a byte after decoding a smooth JPEG at a reduced scale."""

COLOUR = Preprocessing(16, 3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
GREY = Preprocessing(16, 1, mean=(0.4,), std=(0.2,))


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (4, 4, (0, 0, 4, 4)),
        (4, 7, (1, 0, 5, 4)),
        (7, 4, (0, 1, 4, 5)),
        (4, 8, (2, 0, 6, 4)),
        (1, 100, (49, 0, 50, 1)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_the_centre_square_leaves_odd_pixels_right_and_below(
    height: int, width: int, box: tuple[int, ...]
) -> None:
    assert center_crop_box(height, width) == box


@pytest.mark.parametrize("size", [(8, 8), (15, 33), (33, 15), (100, 61), (1, 1), (240, 320)])
def test_resize_is_pillows_crop_and_bilinear(size: tuple[int, int]) -> None:
    pixels = golden_image(7, *size)
    box = center_crop_box(*size)
    cropped = Image.fromarray(pixels).crop(box)
    expected = cropped.resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(COLOUR.resize(pixels), np.asarray(expected))
    grey = cropped.convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    resized = GREY.resize(pixels)
    assert resized.shape == (16, 16, 1)
    np.testing.assert_array_equal(resized[:, :, 0], np.asarray(grey))


def test_luma_before_the_crop_is_luma_after_it() -> None:
    pixels = golden_image(8, 30, 51)
    luma = Image.fromarray(pixels).convert("L").crop(center_crop_box(30, 51))
    expected = luma.resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(GREY.resize(pixels)[:, :, 0], np.asarray(expected))


def test_an_input_of_the_networks_size_passes_unchanged() -> None:
    pixels = golden_image(9, 16, 16)
    np.testing.assert_array_equal(COLOUR.resize(pixels), pixels)


@pytest.mark.parametrize(
    ("mean", "std", "zero_point"),
    [
        ((100 / 255,) * 3, (0.25,) * 3, 100),
        ((0.0,), (0.3,), 0),
        ((1.0,), (0.3,), 255),
        ((0.5,) * 3, (0.25,) * 3, None),  # 127.5
        ((0.4, 0.4, 0.5), (0.25,) * 3, None),
        ((0.4,) * 3, (0.25, 0.2, 0.25), None),
    ],
)
def test_one_scale_for_all_channels_has_a_zero_point(
    mean: tuple[float, ...], std: tuple[float, ...], zero_point: int | None
) -> None:
    steps = Preprocessing(16, len(mean), mean, std)
    assert steps.zero_point == zero_point
    if zero_point is not None:
        pixels = np.full((1, 16, 16, len(mean)), zero_point, np.uint8)
        np.testing.assert_allclose(steps.normalize(pixels), 0, rtol=0, atol=FLOAT_TOLERANCE)


def test_normalize_is_scale_then_mean_and_std(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    normalized = COLOUR.normalize(pixels)
    expected = (pixels / 255 - COLOUR.mean) / COLOUR.std
    assert normalized.dtype == np.float32
    assert normalized.flags.c_contiguous
    np.testing.assert_allclose(
        normalized, expected.transpose(0, 3, 1, 2), rtol=0, atol=FLOAT_TOLERANCE
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": 2}, "2 channels"),
        ({"size": 0}, "size 0"),
        ({"size": 5000}, "size 5000"),
        ({"mean": (0.5,)}, "mean"),
        ({"std": (0.2,) * 4}, "std"),
        ({"mean": (0.5, 0.5, 1.5)}, "mean"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean"),
        ({"std": (0.2, 0.2, 0.0)}, "std"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, object], said: str) -> None:
    good = {"size": 16, "channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    with pytest.raises(ValueError, match=said):
        Preprocessing(**good | change)


@pytest.mark.parametrize("steps", [COLOUR, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("size", [(16, 16), (24, 41), (50, 17), (3, 200)])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[::-1],
        lambda x: x[:, ::-1],
        lambda x: np.pad(x, ((3, 2), (5, 1), (0, 0)))[3:-2, 5:-1],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.asfortranarray(x),
        lambda x: x[:, :, :1],
        lambda x: x[:, :, 0],
    ],
    ids=["plain", "upside down", "mirrored", "cut out", "every other", "Fortran", "K1", "K"],
)
def test_any_array_gives_what_load_image_and_resize_give(
    rng: np.random.Generator,
    steps: Preprocessing,
    size: tuple[int, int],
    view: Callable[[np.ndarray], np.ndarray],
) -> None:
    array = view(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    array.flags.writeable = False
    for bgr in (False, True):
        upright = np.ascontiguousarray(load_image(array, bgr=bgr))
        pixels, seen = steps.load(array, bgr=bgr)
        assert seen == size
        np.testing.assert_array_equal(pixels, steps.resize(upright))


def test_files_give_what_load_image_and_resize_give(scene: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    Image.fromarray(scene).save(path)
    for source in (path, path.read_bytes(), Image.fromarray(scene)):
        pixels, size = COLOUR.load(source)
        assert size == (24, 40)
        np.testing.assert_array_equal(pixels, COLOUR.resize(scene))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_draft_shows_the_same_square(encode: Callable[..., bytes], orientation: int) -> None:
    ramp_y, ramp_x = np.mgrid[0:400, 0:500]
    large = np.stack([ramp_y // 2, ramp_x // 2, (ramp_y + ramp_x) // 4], axis=2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(large.astype(np.uint8), "JPEG", quality=95, exif=exif)
    exact, full = COLOUR.load(data)
    drafted, size = COLOUR.load(data, draft=True)
    assert size == full == ((400, 500) if orientation < 5 else (500, 400))
    assert not np.array_equal(drafted, exact)
    assert np.abs(drafted.astype(int) - exact).max() <= DRAFT_PIXEL_TOLERANCE


def test_a_draft_leaves_other_formats_alone(
    encode: Callable[..., bytes], rng: np.random.Generator
) -> None:
    data = encode(rng.integers(0, 256, (400, 500, 3), dtype=np.uint8))
    np.testing.assert_array_equal(COLOUR.load(data, draft=True)[0], COLOUR.load(data)[0])

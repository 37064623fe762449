"""The graph's crop, luma and resize against Pillow's, which is what training used."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.image import load_image
from nin_edge_runtime.preprocessing import Preprocessing

from .conftest import graph_pixels

PIXEL_TOLERANCE = 1
"""Largest difference of a byte."""

EQUAL_SHARE = 0.99
"""Least share of bytes that are the same."""

# Networks beyond 32 x 32 mostly enlarge what is tried here. Then many weighted sums end in exactly
# a half, which ONNX Runtime's float32 weights and Pillow's float64 ones round to different sides.
LARGE_PIXEL_TOLERANCE = 2
LARGE_EQUAL_SHARE = 0.85

SIZES = [
    (8, 8),
    (8, 31),
    (31, 9),
    (16, 16),
    (32, 32),
    (33, 32),
    (45, 64),
    (100, 75),
    (227, 341),
    (480, 640),
    (641, 479),
    (1080, 1920),
    (1500, 2000),
    (2000, 1500),
    (3, 1000),
]


def _preprocessing(size: int, channels: int) -> Preprocessing:
    return Preprocessing(size, channels, mean=(0.5,) * channels, std=(0.25,) * channels)


def _assert_close(graph: NDArray[np.uint8], pillow: NDArray[np.uint8]) -> None:
    assert graph.shape == pillow.shape
    large = pillow.shape[0] > 32
    difference = np.abs(graph.astype(int) - pillow.astype(int))
    assert difference.max() <= (LARGE_PIXEL_TOLERANCE if large else PIXEL_TOLERANCE)
    assert (difference == 0).mean() >= (LARGE_EQUAL_SHARE if large else EQUAL_SHARE)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("size", "channels"), [(32, 3), (32, 1), (16, 3), (48, 3), (64, 3), (96, 3), (224, 1)]
)
def test_graph_resizes_as_pillow_does(
    size: int, channels: int, height: int, width: int, rng: np.random.Generator
) -> None:
    preprocessing = _preprocessing(size, channels)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    _assert_close(graph_pixels(preprocessing)(noise), preprocessing.resize(noise))


@pytest.mark.parametrize("channels", [1, 3])
def test_graph_resizes_smooth_images_as_pillow_does(channels: int) -> None:
    preprocessing = _preprocessing(32, channels)
    drawn = golden_image(7, 123, 457)
    _assert_close(graph_pixels(preprocessing)(drawn), preprocessing.resize(drawn))


def test_image_of_the_networks_size_passes_unchanged(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(graph_pixels(_preprocessing(32, 3))(pixels), pixels)


def test_graph_resizes_photos_as_pillow_does(data_dir: Path) -> None:
    preprocessing = _preprocessing(64, 3)
    graph = graph_pixels(preprocessing)
    with tarfile.open(data_dir / "exif-orientation.tar") as tar:
        photos = [member for member in tar if member.name.endswith(".jpg")]
        assert len(photos) == 18
        for photo in photos:
            file = tar.extractfile(photo)
            assert file is not None
            pixels = np.ascontiguousarray(load_image(io.BytesIO(file.read())))
            _assert_close(graph(pixels), preprocessing.resize(pixels))

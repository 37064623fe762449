"""`Classifier.graph`: a batch of arrays through the whole graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nin_edge_runtime import Classifier, ImageError
from nin_edge_runtime.golden import golden_image

BATCH_TOLERANCE = 1e-5
"""Largest difference of a probability between an image alone and in a batch."""
RESIZE_TOLERANCE = 1e-2
"""The same, where the graph's resize and Pillow's may differ by 1/255 in a few pixels."""

SIZES = ((16, 16), (24, 40), (61, 33), (7, 9), (200, 150))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [golden_image(seed, *size) for seed, size in enumerate(SIZES)]


@pytest.mark.parametrize("name", ["format-1", "grey"])
def test_the_graphs_own_resize_agrees_with_the_calls(
    tiny_model: Path, images: list[np.ndarray], name: str
) -> None:
    classify = Classifier(tiny_model.with_name(f"{name}.fp32.onnx"), provider="cpu", threads=1)
    for image in images:
        np.testing.assert_allclose(
            classify.graph(image[np.newaxis]).probabilities[0],
            classify(image).probabilities,
            rtol=0,
            atol=RESIZE_TOLERANCE,
        )


@pytest.mark.parametrize("name", ["format-1", "normalize", "none", "grey", "grey-none"])
def test_a_batch_gives_each_images_outputs(tiny_model: Path, name: str) -> None:
    classify = Classifier(tiny_model.with_name(f"{name}.fp32.onnx"), provider="cpu", threads=1)
    images = np.stack([golden_image(seed, 40, 24) for seed in range(5)])
    found = classify.graph(images[:, ::-1])  # not contiguous
    assert found.probabilities.shape == (5, 3)
    assert found.class_maps.shape == (5, 3, 4, 4)
    for row, image in enumerate(images):
        (alone,) = classify.graph(image[np.newaxis, ::-1]).probabilities
        np.testing.assert_allclose(found.probabilities[row], alone, rtol=0, atol=BATCH_TOLERANCE)
        prediction = classify(image[::-1])
        np.testing.assert_allclose(
            found.probabilities[row], prediction.probabilities, rtol=0, atol=RESIZE_TOLERANCE
        )


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
        [golden_image(0, 8, 8)],
        "photo.jpg",
    ],
    ids=[
        "one image",
        "RGBA",
        "channels first",
        "none",
        "no rows",
        "floats",
        "a list",
        "a path",
    ],
)
def test_what_is_no_batch_is_refused(classify: Classifier, images: object) -> None:
    with pytest.raises(ImageError, match=r"expected uint8 \(N, H, W, 3\), RGB, at least one"):
        classify.graph(images)  # type: ignore[arg-type]


def test_images_of_too_many_pixels_are_refused(tiny_model: Path) -> None:
    classify = Classifier(tiny_model, provider="cpu", threads=1, max_pixels=99)
    with pytest.raises(ImageError, match="10 x 10 pixels, more than the 99 allowed"):
        classify.graph(np.zeros((2, 10, 10, 3), np.uint8))

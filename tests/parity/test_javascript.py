"""nin-edge-js in Node against the Python runtime, on real images."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import _node
from nin_edge_runtime import DEFAULT_MODEL, Classifier

from .conftest import Photos

SOME = 10  # one in so many of the fixture's 1,000 images


def test_node_gives_the_predictions_of_a_hundred_test_images_bit_for_bit(cifar: Photos) -> None:
    if (reason := _node.missing()) is not None:
        pytest.skip(reason)
    images = list(cifar.images[::SOME])
    assert len(images) == 100
    found = _node.classify(DEFAULT_MODEL, images)
    classify = Classifier(DEFAULT_MODEL, provider="cpu", threads=1)
    expected = [classify(image) for image in images]
    assert found.labels == tuple(prediction.label for prediction in expected)
    assert np.array_equal(found.probabilities, [one.probabilities for one in expected])
    assert np.array_equal(found.maps, [one.class_map.ravel() for one in expected])

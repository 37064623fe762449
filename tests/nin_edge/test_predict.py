from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NetworkConfig, NiN
from nin_edge.predict import InputTransform, logits
from nin_edge.weights import DEFAULT_WEIGHTS
from nin_edge_runtime.preprocessing import Preprocessing

NORMALISED_TOLERANCE = 1e-6  # one or two steps of float32 at the magnitude of a normalised pixel
BATCHED_TOLERANCE = 1e-5  # convolutions of another batch size sum in another order
GPU_TOLERANCE = 1e-4  # of logits; TF32's rounding would exceed it
IMAGES = 300  # more than one batch of the evaluation, and no multiple of it


def tiny(preset: str, channels: int = 3) -> tuple[NiN, Preprocessing]:
    torch.manual_seed(0)
    config = NetworkConfig.from_preset(preset, classes=3, channels=channels, size=16, width=0.01)
    return NiN(config), Preprocessing(16, channels, (0.4,) * channels, (0.2,) * channels)


def noise(rng: np.random.Generator, channels: int = 3) -> NDArray[np.uint8]:
    return rng.integers(0, 256, size=(IMAGES, 16, 16, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transform_is_the_runtimes_normalisation(
    rng: np.random.Generator, channels: int
) -> None:
    mean, std = (0.491, 0.482, 0.447)[:channels], (0.247, 0.243, 0.262)[:channels]
    preprocessing, pixels = Preprocessing(16, channels, mean, std), noise(rng, channels)
    given = InputTransform(preprocessing)(torch.from_numpy(pixels))
    assert given.shape == (IMAGES, channels, 16, 16)
    assert given.is_contiguous(memory_format=torch.channels_last)
    expected = preprocessing.normalize(pixels)
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=NORMALISED_TOLERANCE)


def test_logits_are_the_networks_for_the_chosen_images(rng: np.random.Generator) -> None:
    (network, preprocessing), images = tiny("nin"), noise(rng)
    chosen = rng.permutation(IMAGES)[:270]
    given = logits(network.train(), preprocessing, images, chosen)
    assert not network.training  # dropout would make the numbers random
    with torch.inference_mode():
        expected = network(torch.from_numpy(preprocessing.normalize(images[chosen]))).numpy()
    assert (given.shape, given.dtype) == ((270, 3), np.float32)
    np.testing.assert_allclose(given, expected, rtol=0, atol=BATCHED_TOLERANCE)


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_logits(gpu: torch.device, rng: np.random.Generator) -> None:
    checkpoint = Checkpoint.load(DEFAULT_WEIGHTS)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    network, every = checkpoint.network(), np.arange(IMAGES)
    expected = logits(network, checkpoint.preprocessing, images, every)
    given = logits(network.to(gpu), checkpoint.preprocessing, images, every, gpu)
    np.testing.assert_allclose(given, expected, rtol=0, atol=GPU_TOLERANCE)


def test_logits_of_no_images_are_an_empty_table(rng: np.random.Generator) -> None:
    network, preprocessing = tiny("nin-bn")
    empty = logits(network, preprocessing, noise(rng), np.array([], dtype=np.int64))
    assert empty.shape == (0, 3)

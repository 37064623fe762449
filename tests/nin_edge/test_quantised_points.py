from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from nin_edge.network import NetworkConfig, NiN
from nin_edge.predict import inputs
from nin_edge.quantised_points import activation_ranges
from nin_edge_runtime.preprocessing import Preprocessing

BATCHED_TOLERANCE = 1e-5  # convolutions of another batch size sum in another order
IMAGES = 300  # more than one batch, and no multiple of it


def tiny(preset: str, channels: int = 3) -> tuple[NiN, Preprocessing]:
    torch.manual_seed(0)
    config = NetworkConfig.from_preset(preset, classes=3, channels=channels, size=16, width=0.01)
    return NiN(config), Preprocessing(16, channels, (0.4,) * channels, (0.2,) * channels)


def noise(rng: np.random.Generator, channels: int = 3) -> NDArray[np.uint8]:
    return rng.integers(0, 256, size=(IMAGES, 16, 16, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", ["nin", "nin-bn"])
def test_activation_ranges_equal_sorting_everything(
    rng: np.random.Generator, preset: str, channels: int
) -> None:
    (network, preprocessing), images = tiny(preset, channels), noise(rng, channels)
    chosen = np.sort(rng.permutation(IMAGES)[:270])
    seen: dict[str, NDArray[np.float32]] = {"input": preprocessing.normalize(images[chosen])}
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    for name, module in network.named_modules():
        ends = preset == "nin-bn" and module is last  # in nin, its ReLU is the end
        if ends or isinstance(module, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d):
            module.register_forward_hook(
                lambda _, __, output, name=name: seen.update({name: output.numpy().copy()})
            )
    with torch.inference_mode():
        network.eval()(torch.from_numpy(seen["input"]))
    expected = dict(seen)

    ranges = activation_ranges(network.train(), inputs(preprocessing, images, chosen), len(chosen))

    assert not network.training
    assert ranges.keys() == expected.keys()
    assert len(ranges) == 1 + 9 + 2  # the input, nine convolutions, two poolings
    for name, values in expected.items():
        ordered = np.sort(values, axis=None)
        beyond = int(ordered.size * 1e-4)
        given = (ranges[name].minimum, ranges[name].maximum, ranges[name].low, ranges[name].high)
        wanted = (ordered[0], ordered[-1], ordered[beyond], ordered[-1 - beyond])
        np.testing.assert_allclose(given, wanted, rtol=0, atol=BATCHED_TOLERANCE, err_msg=name)


def test_measuring_ranges_leaves_no_hooks(rng: np.random.Generator) -> None:
    network, preprocessing = tiny("nin-bn")
    activation_ranges(network, inputs(preprocessing, noise(rng), np.arange(3)), 3)
    assert not any(module._forward_hooks for module in network.modules())

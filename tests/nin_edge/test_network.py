from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nin_edge.kernels import AveragePool
from nin_edge.network import PRESETS, MlpConv, NetworkConfig, NiN

PARAMETERS = 966_986  # the paper's CIFAR-10 network
MULTIPLY_ADDS = 222_486_528  # of one 32 x 32 image
ACTIVATION_STD = (0.3, 3.0)  # band of every layer's output on white noise, fresh weights
MEAN_TOLERANCE = 1e-6


def tiny(preset: str = "nin-bn", **changes: object) -> NiN:
    """8 channels a layer, but for the class maps."""
    torch.manual_seed(0)
    config = {"classes": 3, "width": 0.01, "size": 16, **changes}
    return NiN(NetworkConfig.from_preset(preset, **config)).eval()  # type: ignore[arg-type]


def outputs(network: NiN, kinds: type | tuple[type, ...], images: Tensor) -> list[Tensor]:
    """What each module of the given kinds gives, in order, for the images."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: found.append(output.clone()))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


def convolutions(network: NiN) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_nin_has_the_parameters_of_the_paper() -> None:
    network = NiN(NetworkConfig.from_preset("nin", classes=10))
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS


@pytest.mark.parametrize("preset", ["nin", "nin-bn"])
def test_every_layer_has_the_shape_of_the_paper(preset: str) -> None:
    network = NiN(NetworkConfig.from_preset(preset, classes=10))
    assert [tuple(layer.weight.shape) for layer in convolutions(network)] == [
        (192, 3, 5, 5),
        (160, 192, 1, 1),
        (96, 160, 1, 1),
        (192, 96, 5, 5),
        (192, 192, 1, 1),
        (192, 192, 1, 1),
        (192, 192, 3, 3),
        (192, 192, 1, 1),
        (10, 192, 1, 1),
    ]


def test_every_layer_gives_maps_of_the_expected_shape() -> None:
    network = NiN(NetworkConfig.from_preset("nin", classes=10)).eval()
    given = outputs(network, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d), torch.zeros(2, 3, 32, 32))
    assert [tuple(output.shape) for output in given] == [
        *[(2, channels, 32, 32) for channels in (192, 160, 96)],
        (2, 96, 16, 16),
        *[(2, 192, 16, 16)] * 3,
        (2, 192, 8, 8),
        *[(2, channels, 8, 8) for channels in (192, 192, 10)],
    ]


@pytest.mark.parametrize(
    ("preset", "kinds"),
    [("nin", ["Conv2d", "ReLU"] * 3), ("nin-bn", ["Conv2d", "BatchNorm2d", "ReLU"] * 3)],
)
def test_presets_differ_in_normalisation_and_in_the_last_layer(
    preset: str, kinds: list[str]
) -> None:
    blocks = [
        [type(layer).__name__ for layer in block]
        for block in NiN(NetworkConfig.from_preset(preset, classes=2)).modules()
        if isinstance(block, MlpConv)
    ]
    # The very last convolution has no normalisation, and in nin-bn no ReLU.
    end = ["Conv2d", "ReLU"] if preset == "nin" else ["Conv2d"]
    assert blocks == [kinds, kinds, kinds[: len(kinds) * 2 // 3] + end]


def test_a_convolution_has_a_bias_unless_it_is_normalised() -> None:
    assert [layer.bias is not None for layer in convolutions(tiny("nin"))] == [True] * 9
    assert [layer.bias is not None for layer in convolutions(tiny("nin-bn"))] == [False] * 8 + [
        True
    ]


def test_the_network_for_photos_has_the_shape_of_the_authors() -> None:
    network = NiN(NetworkConfig.from_preset("nin-imagenet", classes=10)).eval()
    shapes = [(96, 3, 11, 11), (96, 96, 1, 1), (96, 96, 1, 1)]
    for inputs, outputs_, kernel in ((96, 256, 5), (256, 384, 3)):
        shapes += [(outputs_, inputs, kernel, kernel), *[(outputs_, outputs_, 1, 1)] * 2]
    shapes += [(1024, 384, 3, 3), (1024, 1024, 1, 1), (10, 1024, 1, 1)]
    assert [tuple(layer.weight.shape) for layer in convolutions(network)] == shapes
    given = outputs(network, (nn.Conv2d, nn.MaxPool2d), torch.zeros(1, 3, 224, 224))
    sides = [56, 56, 56, 28, 28, 28, 28, 14, 14, 14, 14, 7, 7, 7, 7]
    assert [output.shape[-1] for output in given] == sides
    assert network.config.map_sides() == (56, 28, 14, 7)
    macs = sum(
        math.prod(shape) * side**2
        for shape, side in zip(shapes, [56] * 3 + [28] * 3 + [14] * 3 + [7] * 3, strict=True)
    )
    assert network.config.multiply_adds() == macs


def test_multiply_adds_of_the_full_network() -> None:
    assert NetworkConfig.from_preset("nin", classes=10).multiply_adds() == MULTIPLY_ADDS


@pytest.mark.parametrize("size", [16, 17, 31, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_multiply_adds_are_those_of_the_convolutions_that_run(size: int, channels: int) -> None:
    network = tiny(size=size, channels=channels)
    given = outputs(network, nn.Conv2d, torch.zeros(1, channels, size, size))
    counted = sum(
        layer.weight.numel() * output.shape[2] * output.shape[3]
        for layer, output in zip(convolutions(network), given, strict=True)
    )
    assert network.config.multiply_adds() == counted


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (2.0, [384, 320, 192, 384, 384, 384, 384, 384, 7]),
        (0.5, [96, 80, 48, 96, 96, 96, 96, 96, 7]),
        (0.25, [48, 40, 24, 48, 48, 48, 48, 48, 7]),
        (0.001, [8, 8, 8, 8, 8, 8, 8, 8, 7]),
    ],
)
def test_width_scales_all_channels_but_the_classes(width: float, channels: list[int]) -> None:
    shapes = NetworkConfig.from_preset("nin", classes=7, width=width).layer_shapes()
    assert [outputs for block in shapes for _, outputs, _ in block] == channels


@pytest.mark.parametrize("size", [16, 17, 30, 33, 100, 512])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("preset", "reduced"),
    [("nin-bn", 4), ("nin-deep", 8), ("nin-photo", 16), ("nin-imagenet", 32)],
)
def test_any_size_and_channel_count_in_range_works(
    preset: str, reduced: int, size: int, channels: int
) -> None:
    network = tiny(preset, size=size, channels=channels, classes=2)
    with torch.inference_mode():
        images = torch.rand(1, channels, size, size)
        side = math.ceil(size / reduced)
        assert network.config.map_sides()[-1] == side
        assert network.class_maps(images).shape == (1, 2, side, side)
        assert network(images).shape == (1, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 1}, r"classes is 1: .* at least 2"),
        ({"channels": 2}, r"channels is 2: expected 1 .* or 3"),
        ({"channels": 4}, r"channels is 4: expected 1 .* or 3"),
        ({"size": 15}, r"size is 15: expected 16 to 512"),
        ({"size": 513}, r"size is 513: expected 16 to 512"),
        ({"size": 32.5}, r"size is 32\.5: expected 16 to 512"),
        ({"width": 0.0}, r"width is 0\.0: .* above 0, at most 8"),
        ({"width": -1.0}, r"width is -1\.0: .* above 0, at most 8"),
        ({"width": 8.1}, r"width is 8\.1: .* above 0, at most 8"),
        ({"width": math.nan}, r"width is nan: .* above 0, at most 8"),
        ({"dropout": 1.0}, r"dropout is 1\.0: .* below 1"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
        ({"kernels": (5, 5)}, r"3 blocks\b.* 2 kernels: expected a kernel each"),
        ({"kernels": (4, 5, 3)}, r"kernel.* odd"),
        ({"blocks": ((8,), (), (8,))}, r"blocks"),
        ({"pools": ("max",)}, r"pools are \('max',\): expected max or avg between the 3 blocks"),
        ({"pools": ("max", "min")}, r"expected max or avg"),
        ({"stride": 0}, r"stride is 0: expected 1 to 8"),
        ({"head": "dense"}, r"head is 'dense': expected gap or fc"),
        ({"block": "conv"}, r"block is 'conv': expected mlpconv or linear"),
        ({"head_dropout": 1.0}, r"head_dropout is 1\.0: .* below 1"),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_built_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NetworkConfig.from_preset("nin", **{"classes": 10, **changes})  # type: ignore[arg-type]


def test_linear_blocks_are_their_first_convolutions() -> None:
    plain = NetworkConfig.from_preset("nin", classes=7, block="linear").layer_shapes()
    assert plain == (((3, 192, 5),), ((192, 192, 5),), ((192, 192, 3), (192, 7, 1)))


def test_a_fully_connected_head_takes_all_pixels_of_the_maps() -> None:
    torch.manual_seed(0)
    config = NetworkConfig.from_preset(
        "nin-bn", classes=3, width=0.05, size=18, head="fc", head_dropout=0.5
    )
    network = NiN(config).eval()
    images = torch.rand(2, 3, 18, 18)
    with torch.inference_mode():
        maps = network.stages[:-2](images)  # before dropout and the head
        assert maps.shape == (2, 3, 5, 5)
        head = network.stages[-1]
        expected = maps.flatten(1) @ head.weight.flatten(1).T + head.bias
        torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-5)
        assert network.class_maps(images).shape == (2, 3, 1, 1)
    without = replace(config, head="gap")
    assert config.multiply_adds() - without.multiply_adds() == 3 * 3 * 5 * 5


def test_a_preset_has_the_classes_of_the_paper_unless_others_are_asked_for() -> None:
    assert NetworkConfig.from_preset("nin").classes == 10
    assert NetworkConfig.from_preset("nin-imagenet").classes == 1000
    assert NetworkConfig.from_preset("nin", classes=3).classes == 3
    with pytest.raises(ValueError, match="classes is 0"):
        NetworkConfig.from_preset("nin", classes=0)


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown preset 'vgg': expected one of nin, nin-bn"):
        NetworkConfig.from_preset("vgg", classes=10)


@pytest.mark.parametrize("preset", PRESETS)
def test_logits_are_the_average_of_the_class_maps(preset: str) -> None:
    network = tiny(preset)
    with torch.inference_mode():
        images = torch.randn(4, 3, 16, 16)
        average = network.class_maps(images).mean((2, 3))
        torch.testing.assert_close(network(images), average, rtol=0, atol=MEAN_TOLERANCE)


@pytest.mark.parametrize(("preset", "negative"), [("nin", False), ("nin-bn", True)])
def test_class_maps_are_linear_only_with_batch_normalisation(preset: str, negative: bool) -> None:
    with torch.inference_mode():
        maps = tiny(preset, width=0.1).class_maps(torch.randn(8, 3, 16, 16))
    assert maps.max() > 0
    assert (maps.min() < 0) == negative


def test_pooling_overlaps_and_leaves_padding_out_of_the_average() -> None:
    stages = tiny().stages
    pools = [stage for stage in stages if isinstance(stage, nn.MaxPool2d | nn.AvgPool2d)]
    assert [type(pool) for pool in pools] == [nn.MaxPool2d, AveragePool]
    assert all((pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1) for pool in pools)
    ones = torch.ones(1, 1, 5, 5)
    assert torch.equal(pools[1](ones), torch.ones(1, 1, 3, 3))  # corners too
    assert torch.equal(pools[0](-ones), -torch.ones(1, 1, 3, 3))


@pytest.mark.parametrize(("preset", "random"), [("nin", True), ("nin-bn", False)])
def test_dropout_works_in_training_alone(preset: str, random: bool) -> None:
    network = tiny(preset, width=0.1)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(images), network(images))
        network.train()
        assert torch.equal(network(images), network(images)) != random


@pytest.mark.parametrize("seed", range(3))
def test_fresh_activations_neither_vanish_nor_explode(seed: int) -> None:
    torch.manual_seed(seed)
    network = NiN(NetworkConfig.from_preset("nin", classes=10, width=0.5)).eval()
    deviations = [
        output.std().item() for output in outputs(network, nn.ReLU, torch.randn(8, 3, 32, 32))
    ]
    low, high = ACTIVATION_STD
    assert all(low < deviation < high for deviation in deviations), deviations


@pytest.mark.parametrize("preset", PRESETS)
def test_every_weight_gets_a_gradient(preset: str) -> None:
    network = tiny(preset, width=0.1).train()
    targets = torch.arange(16) % 3
    nn.functional.cross_entropy(network(torch.randn(16, 3, 16, 16)), targets).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name

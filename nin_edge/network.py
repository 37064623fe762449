"""Network in Network (Lin, Chen, Yan, arXiv:1312.4400): the whole network on one page.

A convolution layer is a linear filter followed by a non-linearity. The paper replaces it by a small
multilayer perceptron that slides over the image (an *mlpconv* layer): a k x k convolution followed
by two 1 x 1 convolutions, each with a ReLU (section 3.1). The classifier is three such layers and a
global average over one map per class (section 3.2). There is no fully connected layer.

    >>> network = NiN(NetworkConfig.from_preset("nin"))
    >>> sum(parameter.numel() for parameter in network.parameters())
    966986
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from nin_edge.kernels import AveragePool, ReLU
from nin_edge_runtime.model_file.limits import (
    MAX_CLASSES,
    MAX_KERNEL,
    MAX_SIDE,
    MAX_STRIDE,
    MIN_SIDE,
    Work,
    convolution_work,
)

SIZES: Final = range(MIN_SIDE, MAX_SIDE + 1)
"""Sides of the square input, in pixels, that the network takes."""


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture of a network; stored with its weights."""

    preset: str
    """Name of the preset that the other fields started from, a key of `PRESETS`."""
    classes: int
    """Number of classes K, at least 2."""
    channels: int = 3
    """Channels of the input: 3 (RGB) or 1 (luma)."""
    size: int = 32
    """Side of the square input in pixels, 16 to 512."""
    width: float = 1.0
    """Multiplier of the channel counts, above 0, at most 8; each is rounded to a multiple of 8."""
    blocks: tuple[tuple[int, ...], ...] = ((192, 160, 96), (192, 192, 192), (192, 192))
    """Output channels of each block's convolutions at width 1, without the last one's K."""
    kernels: tuple[int, ...] = (5, 5, 3)
    """Side of each block's first kernel, odd, in pixels; the other kernels are 1 x 1."""
    stride: int = 1
    """Stride of the first convolution, 1 to 8 pixels."""
    pools: tuple[str, ...] = ("max", "avg")
    """Pooling after each block but the last: `max`, or `avg` (the padding is not counted)."""
    batch_norm: bool = False
    """Whether batch normalisation follows each convolution but the last."""
    last_relu: bool = True
    """Whether a ReLU follows the last convolution, as in the paper; else class maps are linear."""
    dropout: float = 0.5
    """Dropout probability after each pooling, 0 to below 1; in training only."""
    block: str = "mlpconv"
    """`mlpconv`; or `linear`, each block's first convolution only (the paper's baseline)."""
    head: str = "gap"
    """`gap`, global average pooling; or `fc`, a fully connected layer over the flattened maps."""
    head_dropout: float = 0.0
    """Dropout probability before the fully connected layer, 0 to below 1; in training only."""

    def __post_init__(self) -> None:
        """Refuse a network that cannot be built.

        Raises:
            ValueError: a field is out of its range; the message names it and the range.
        """
        if not isinstance(self.preset, str):
            raise ValueError(f"preset is {self.preset!r}: expected a name")
        if not _is_whole(self.classes, 2, MAX_CLASSES):
            raise ValueError(
                f"classes is {self.classes!r}: a classifier needs at least 2, at most {MAX_CLASSES}"
            )
        if not _is_whole(self.channels, 1, 3) or self.channels == 2:
            raise ValueError(f"channels is {self.channels!r}: expected 1 (grey) or 3 (RGB)")
        if not _is_whole(self.size, MIN_SIDE, MAX_SIDE):
            raise ValueError(f"size is {self.size!r}: expected {MIN_SIDE} to {MAX_SIDE} pixels")
        if not _is_number(self.width) or not 0 < self.width <= 8:
            raise ValueError(f"width is {self.width!r}: expected a multiplier above 0, at most 8")
        for name in ("dropout", "head_dropout"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(f"{name} is {value!r}: expected a probability below 1")
        for name, known in (
            ("block", ("mlpconv", "linear")),
            ("head", ("gap", "fc")),
            ("batch_norm", (False, True)),
            ("last_relu", (False, True)),
        ):
            value = getattr(self, name)
            if value not in known or type(value) is not type(known[0]):
                raise ValueError(f"{name} is {value!r}: expected {' or '.join(map(str, known))}")
        if not _is_whole(self.stride, 1, MAX_STRIDE):
            raise ValueError(f"stride is {self.stride!r}: expected 1 to {MAX_STRIDE} pixels")
        self._check_blocks()
        self.work().check()

    def _check_blocks(self) -> None:
        """Refuse blocks that do not fit together."""
        if not all(_is_whole(kernel, 1, MAX_KERNEL) and kernel % 2 for kernel in self.kernels):
            raise ValueError(f"kernels are {self.kernels}: expected odd sides, 1 to {MAX_KERNEL}")
        if len(self.blocks) != len(self.kernels) or not all(self.blocks):
            raise ValueError(
                f"{len(self.blocks)} blocks, {len(self.kernels)} kernels: expected a kernel each"
            )
        if not all(
            _is_whole(channels, 1, MAX_CLASSES) for block in self.blocks for channels in block
        ):
            raise ValueError(f"blocks are {self.blocks}: expected 1 to {MAX_CLASSES} channels each")
        if len(self.pools) != len(self.blocks) - 1 or not all(
            pool in ("max", "avg") for pool in self.pools
        ):
            raise ValueError(
                f"pools are {self.pools}: expected max or avg between the {len(self.blocks)} blocks"
            )

    @classmethod
    def from_preset(
        cls, preset: str, *, classes: int | None = None, **changes: object
    ) -> NetworkConfig:
        """The named preset, with fields changed by keyword.

        Args:
            preset: a key of `PRESETS`.
            classes: number of classes; that of the paper's data set if None.
            changes: values of other fields.

        Raises:
            ValueError: no such preset (the message lists them), or a field is out of its range.
        """
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
        if classes is not None:
            changes["classes"] = classes
        return replace(PRESETS[preset], **changes)  # type: ignore[arg-type]

    def layer_shapes(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """Each block's convolutions as (input channels, output channels, kernel side).

        A linear block has one convolution; the last block also keeps the 1 x 1 one to K maps.
        """
        shapes, inputs = [], self.channels
        for index, (block, kernel) in enumerate(zip(self.blocks, self.kernels, strict=True)):
            outputs = [max(8, 8 * round(channels * self.width / 8)) for channels in block]
            if self.block == "linear":
                outputs = outputs[:1]
            if index == len(self.blocks) - 1:
                outputs.append(self.classes)
            sides = [kernel] + [1] * (len(outputs) - 1)
            shapes.append(tuple(zip([inputs, *outputs], outputs, sides, strict=False)))
            inputs = outputs[-1]
        return tuple(shapes)

    def map_sides(self) -> tuple[int, ...]:
        """Side of each block's output maps in pixels; the last is the side of the class maps."""
        # The first convolution divides the side by its stride, each pooling by 2; both round up.
        first = math.ceil(self.size / self.stride)
        return tuple(math.ceil(first / 2**index) for index in range(len(self.blocks)))

    def multiply_adds(self) -> int:
        """Multiply-adds of all convolutions for one image, without bias, pooling and softmax."""
        return self.work().multiply_adds

    def work(self) -> Work:
        """What one image costs, at most and in every precision; model files have its limits."""
        layers = [
            convolution_work(inputs, outputs, kernel**2, side**2)
            for shapes, side in zip(self.layer_shapes(), self.map_sides(), strict=True)
            for inputs, outputs, kernel in shapes
        ]
        if self.head == "fc":
            layers.append(
                convolution_work(self.classes, self.classes, self.map_sides()[-1] ** 2, 1)
            )
        pixels = self.size**2
        return Work(
            multiply_adds=sum(layer.multiply_adds for layer in layers),
            largest=max(3 * pixels, *(layer.largest for layer in layers)),
            # A layer has up to five tensors (casts around its ReLU, a pooling), preprocessing less
            # than 32 values a pixel.
            total=32 * pixels + 5 * sum(layer.total for layer in layers),
            weights=sum(layer.weights for layer in layers),
            convolutions=len(layers),
        )


def _is_whole(value: object, low: int, high: int) -> bool:
    """Whether a value, maybe from a file, is an integer in a range."""
    return type(value) is int and low <= value <= high


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def count_parameters(config: NetworkConfig) -> int:
    """Number of trainable parameters: weights and biases, batch normalisation included."""
    with torch.device("meta"):  # shapes only, no memory
        return sum(parameter.numel() for parameter in NiN(config).parameters())


# With batch normalisation, dropout does not improve short runs. A linear last layer trains faster
# and makes the maps true class activation maps.
_NIN_BN: Final = NetworkConfig("nin-bn", classes=10, batch_norm=True, last_relu=False, dropout=0.0)

# For photos on small processors. Large maps cost more time than their multiply-adds say, so the
# first stride is 2 and most channels come last (`python -m benchmarks.shapes photos`).
_NIN_PHOTO: Final = replace(
    _NIN_BN,
    preset="nin-photo",
    classes=200,
    size=64,
    blocks=((32, 32, 32), (96, 96, 96), (192, 192, 192), (320, 512)),
    kernels=(3, 3, 3, 3),
    stride=2,
    pools=("max", "max", "avg"),
)

# The same lesson for 32 x 32 pixels: four blocks of 3 x 3 in place of three with 5 x 5, one 1 x 1
# convolution in each, and the most channels where the maps are small.
_NIN_DEEP: Final = replace(
    _NIN_BN,
    preset="nin-deep",
    blocks=((144, 112), (288, 224), (416, 416), (448,)),
    kernels=(3, 3, 3, 3),
    pools=("max", "max", "avg"),
)

PRESETS: Final = {
    # The paper's CIFAR network (its figure 2 and the authors' published configuration).
    "nin": NetworkConfig("nin", classes=10),
    "nin-bn": _NIN_BN,
    "nin-deep": _NIN_DEEP,
    "nin-photo": _NIN_PHOTO,
    "nin-photo-large": replace(
        _NIN_PHOTO,
        preset="nin-photo-large",
        size=80,
        blocks=((48, 48, 48), (144, 144, 144), (288, 288, 288), (480, 768)),
    ),
    # The authors' published ImageNet network, with the normalisation and the last layer of nin-bn.
    "nin-imagenet": replace(
        _NIN_BN,
        preset="nin-imagenet",
        classes=1000,
        size=224,
        blocks=((96, 96, 96), (256, 256, 256), (384, 384, 384), (1024, 1024)),
        kernels=(11, 5, 3, 3),
        stride=4,
        pools=("max", "max", "max"),
    ),
}
"""The networks that `--preset` names."""


class MlpConv(nn.Sequential):
    """A k x k convolution followed by 1 x 1 convolutions: the paper's micro network (section 3.1).

    (N, C, H, W) -> (N, D, H / stride, W / stride), with D the last convolution's output channels.
    """

    def __init__(
        self,
        shapes: tuple[tuple[int, int, int], ...],
        *,
        stride: int,
        batch_norm: bool,
        plain_last: bool,
        last_relu: bool,
    ) -> None:
        """Build the layers, with He initialisation so that `nin` trains without normalisation.

        Args:
            shapes: (input channels, output channels, odd kernel side) of each convolution.
            stride: stride of the first convolution, in pixels.
            batch_norm: whether batch normalisation follows each convolution.
            plain_last: whether the last convolution has no batch normalisation.
            last_relu: with `plain_last`, whether a ReLU follows the last convolution.
        """
        layers: list[nn.Module] = []
        for index, (inputs, outputs, kernel) in enumerate(shapes):
            plain = plain_last and index == len(shapes) - 1
            normalise = batch_norm and not plain
            convolution = nn.Conv2d(
                inputs,
                outputs,
                kernel,
                stride=stride if index == 0 else 1,
                padding=kernel // 2,
                bias=not normalise,
            )
            if not convolution.weight.is_meta:  # shapes alone; torch would import its compiler
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            layers.append(convolution)
            if normalise:
                layers.append(nn.BatchNorm2d(outputs))
            if not plain or last_relu:
                layers.append(ReLU())
        super().__init__(*layers)


class NiN(nn.Module):
    """Mlpconv blocks with overlapping pooling and dropout between them, then a global average.

    All poolings are 3 x 3 with stride 2 and padding 1. The CIFAR networks have three blocks, with
    max pooling after the first and average pooling after the second.

    With the head `fc`, a fully connected layer follows the flattened maps (section 4.6). It is
    written as a convolution whose kernel covers the whole map, so its K maps are 1 x 1.
    """

    def __init__(self, config: NetworkConfig) -> None:
        """Build the network, with random weights from torch's global generator."""
        super().__init__()
        self.config = config
        shapes = config.layer_shapes()
        stages: list[nn.Module] = []
        for index, block in enumerate(shapes):
            last = index == len(shapes) - 1
            stages.append(
                MlpConv(
                    block,
                    stride=config.stride if index == 0 else 1,
                    batch_norm=config.batch_norm,
                    plain_last=last,
                    last_relu=config.last_relu,
                )
            )
            if not last:
                # Dropout after the pooling draws a quarter as many random numbers as before it.
                stages.append(
                    nn.MaxPool2d(3, stride=2, padding=1)
                    if config.pools[index] == "max"
                    else AveragePool()
                )
                stages.append(nn.Dropout(config.dropout))
        if config.head == "fc":
            stages.append(nn.Dropout(config.head_dropout))
            stages.append(nn.Conv2d(config.classes, config.classes, config.map_sides()[-1]))
        self.stages = nn.Sequential(*stages)

    def class_maps(self, images: Tensor) -> Tensor:
        """The class maps, one per class, before the average.

        Args:
            images: normalised images (N, C, S, S), float32.

        Returns:
            (N, K, h, w), float32; h = w = the last of `map_sides`, or 1 with the head `fc`.
        """
        maps: Tensor = self.stages(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """The logits: the average of each class map (global average pooling, section 3.2).

        Args:
            images: normalised images (N, C, S, S), float32.

        Returns:
            (N, K), float32.
        """
        return self.class_maps(images).mean((2, 3))  # (N, K, h, w) -> (N, K)

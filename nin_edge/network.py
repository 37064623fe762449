"""Network in Network (Lin, Chen, Yan, arXiv:1312.4400): the whole network on one page.

A convolution layer is a linear filter followed by a non-linearity. The paper puts a small
multilayer perceptron in its place (an *mlpconv* layer): a k x k convolution followed by two 1 x 1
convolutions, each with ReLU, whose weights are shared over all positions (section 3.1). Three of
those and a global average over one map per class make the classifier (section 3.2); there is no
fully connected layer.

    >>> network = NiN(NetworkConfig.from_preset("nin", classes=10))
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

SIZES: Final = range(16, 513)
"""Sides of the square input, in pixels, that the network takes."""


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that fixes the shape of a network; stored with its weights."""

    preset: str
    """Name of the preset that the other fields started from."""
    classes: int
    """Number of classes K, at least 2."""
    channels: int = 3
    """Channels of the input: 3 (RGB) or 1 (luma)."""
    size: int = 32
    """Side of the square input in pixels, 16 to 512."""
    width: float = 1.0
    """Multiplier of the preset's channel counts, each rounded to a multiple of 8."""
    blocks: tuple[tuple[int, ...], ...] = ((192, 160, 96), (192, 192, 192), (192, 192))
    """Output channels of each mlpconv's convolutions at width 1; the very last, K, is left out."""
    kernels: tuple[int, ...] = (5, 5, 3)
    """Side of each mlpconv's first kernel; the other two are 1."""
    stride: int = 1
    """Step of the very first convolution, in pixels."""
    pools: tuple[str, ...] = ("max", "avg")
    """Pooling after each block but the last: the maximum, or the average without the padding."""
    batch_norm: bool = False
    """Batch normalisation between each convolution and its ReLU, but for the last convolution."""
    last_relu: bool = True
    """Whether the class maps pass a ReLU, as in the paper; without it they are linear."""
    dropout: float = 0.5
    """Probability of zeroing an activation after each pooling, while training."""
    block: str = "mlpconv"
    """`mlpconv`, or `linear`: of each block the first convolution alone, the paper's comparison."""
    head: str = "gap"
    """`gap`, global average pooling, or `fc`: a fully connected layer over the flattened maps."""
    head_dropout: float = 0.0
    """Probability of zeroing an input of the fully connected layer, while training."""

    def __post_init__(self) -> None:
        """Refuse a network that cannot be built.

        Raises:
            ValueError: a field is out of its range; the message names it and the range.
        """
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}: a classifier needs at least 2")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: expected 1 (grey) or 3 (RGB)")
        if self.size not in SIZES:
            raise ValueError(
                f"size is {self.size}: expected {SIZES.start} to {SIZES.stop - 1} pixels"
            )
        if not 0 < self.width <= 8:
            raise ValueError(f"width is {self.width}: expected a multiplier above 0, at most 8")
        for name in ("dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected a probability below 1")
        for name, known in (("block", ("mlpconv", "linear")), ("head", ("gap", "fc"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: expected {' or '.join(known)}"
                )
        if any(kernel < 1 or kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"kernels are {self.kernels}: expected odd sides")
        if len(self.blocks) != len(self.kernels) or not all(self.blocks):
            raise ValueError(
                f"{len(self.blocks)} blocks, {len(self.kernels)} kernels: expected a kernel each"
            )
        if len(self.pools) != len(self.blocks) - 1 or not set(self.pools) <= {"max", "avg"}:
            raise ValueError(
                f"pools are {self.pools}: expected max or avg between the {len(self.blocks)} blocks"
            )
        if not 1 <= self.stride <= 8:
            raise ValueError(f"stride is {self.stride}: expected 1 to 8 pixels")

    @classmethod
    def from_preset(cls, preset: str, *, classes: int, **changes: object) -> NetworkConfig:
        """The named preset for `classes` classes, with any other field changed by keyword.

        Raises:
            ValueError: no such preset (the message lists them), or a field out of its range.
        """
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
        return replace(PRESETS[preset], classes=classes, **changes)  # type: ignore[arg-type]

    def layer_shapes(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """Each block's convolutions as (input channels, output channels, kernel side).

        A linear block is its first convolution; the last one keeps the 1 x 1 convolution to K maps.
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
        """Side, in pixels, of what each block gives; the last one's is that of the K maps."""
        # The first convolution divides the side by its stride, every pooling by two; both round up.
        first = math.ceil(self.size / self.stride)
        return tuple(math.ceil(first / 2**index) for index in range(len(self.blocks)))

    def multiply_adds(self) -> int:
        """Multiply-adds of all layers for one image (bias, pooling and softmax left out)."""
        sides = self.map_sides()
        total = sum(
            inputs * outputs * kernel**2 * side**2
            for shapes, side in zip(self.layer_shapes(), sides, strict=True)
            for inputs, outputs, kernel in shapes
        )
        return total + (self.classes**2 * sides[-1] ** 2 if self.head == "fc" else 0)


def count_parameters(config: NetworkConfig) -> int:
    """Weights and biases of the network, those of its normalisation among them."""
    with torch.device("meta"):  # shapes alone
        return sum(parameter.numel() for parameter in NiN(config).parameters())


PRESETS: Final = {
    # The paper's CIFAR network (its figure 2 and the authors' published configuration).
    "nin": NetworkConfig("nin", classes=10),
    # With batch normalisation, dropout no longer pays in short runs; a linear last layer trains
    # faster and makes the maps true class activation maps (docs/results.md).
    "nin-bn": NetworkConfig("nin-bn", classes=10, batch_norm=True, last_relu=False, dropout=0.0),
    # The authors' published network for ImageNet, with the normalisation and the end of nin-bn.
    "nin-imagenet": NetworkConfig(
        "nin-imagenet",
        classes=1000,
        size=224,
        blocks=((96, 96, 96), (256, 256, 256), (384, 384, 384), (1024, 1024)),
        kernels=(11, 5, 3, 3),
        stride=4,
        pools=("max", "max", "max"),
        batch_norm=True,
        last_relu=False,
        dropout=0.0,
    ),
}


class MlpConv(nn.Sequential):
    """A k x k convolution followed by 1 x 1 convolutions: the paper's micro network (section 3.1).

    Maps (N, C, H, W) to (N, D, H, W), D being the output channels of the last convolution.
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
        """Build the layers with He initialisation: deep ReLU stacks train without normalisation.

        Args:
            shapes: (input channels, output channels, odd kernel side) of each convolution.
            stride: of the first convolution, in pixels.
            batch_norm: normalise each convolution's output before its ReLU.
            plain_last: leave the last convolution's output as it is, but for `last_relu`.
            last_relu: with `plain_last`, whether it still passes a ReLU.
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
    """Mlpconv blocks, overlapping pooling and dropout between them, global average pooling.

    Poolings are 3 x 3 with stride 2 and padding 1. CIFAR's networks have three blocks; the first
    pooling is a maximum, the second an average that leaves the padding out of its count.

    With the head `fc`, a fully connected layer takes the flattened maps (section 4.6). It is the
    convolution whose kernel is as large as the maps: K maps of one pixel, which are the logits and
    say nothing of places.
    """

    def __init__(self, config: NetworkConfig) -> None:
        """Build the network that `config` describes, with fresh weights from torch's generator."""
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
                # Dropout follows the pooling, where a quarter of the activations is left to draw
                # for.
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
        """One map per class, before the average.

        Args:
            images: normalised images (N, C, S, S), float32.

        Returns:
            (N, K, h, w), float32; h = w = the last of `map_sides`, or 1 with the head `fc`.
        """
        maps: Tensor = self.stages(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits: the average of each class map (global average pooling, section 3.2).

        Args:
            images: normalised images (N, C, S, S), float32.

        Returns:
            (N, K), float32, unbounded.
        """
        return self.class_maps(images).mean((2, 3))  # (N, K, h, w) -> (N, K)

"""How large a network may be: one table for its configuration, for export, and for model files.

A file of a few kilobytes can ask for hours and for all memory: weights are small, and what costs
time is the size of the maps. So the work of one image is bounded, and that of a fixed batch. The
bounds lie above `nin` at its full width on 512 x 512 pixels, which takes 57 thousand million
multiply-adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIN_SIDE: Final = 16
"""Smallest side of the network's input in pixels."""

MAX_SIDE: Final = 512
"""Largest side of the network's input in pixels, and so of any stride or size in a graph."""

MAX_CLASSES: Final = 65_536
"""Most classes of a network."""

MAX_LABEL: Final = 1000
"""Most characters of a label; most are names of folders, which have at most 255 bytes."""

MAX_KERNEL: Final = 31
"""Largest side of a kernel, unless it covers the whole map, as a fully connected layer does."""

MAX_STRIDE: Final = 8
"""Largest stride of a convolution, in pixels."""

MAX_GOLDEN: Final = 16
"""Most golden samples of a model file."""

MAX_GOLDEN_SCALE: Final = 5
"""Largest side of a golden sample, as a multiple of the network's."""

MAX_CONVOLUTIONS: Final = 100
"""Most convolutions of a network."""

MAX_MULTIPLY_ADDS: Final = 100_000_000_000
"""Most multiply-adds of one image; about three seconds on one core of a PC."""

MAX_TENSOR: Final = 100_000_000
"""Most elements of a tensor of one image; 400 MB in float32."""

MAX_TENSORS: Final = 2_000_000_000
"""Most elements of all tensors of one image together."""

MAX_WEIGHTS: Final = 500_000_000
"""Most elements of all weights together, whatever the batch: a file holds 2 GB of float32."""

MAX_BATCH: Final = 4096
"""Most images of a fixed batch."""

MAX_BATCH_WORK: Final = 10
"""Most work of a fixed batch, as a multiple of each of the three limits of one image.

It is enough for `MAX_BATCH` images of 32 x 32 pixels and `nin` at its full width.
"""


@dataclass(frozen=True)
class Work:
    """What one image costs in a run of a network, whatever its weights."""

    multiply_adds: int
    """Multiply-adds of all convolutions."""
    largest: int
    """Elements of the largest tensor that is computed."""
    total: int
    """Elements of all tensors that are computed."""
    weights: int
    """Elements of the weights of all convolutions."""
    convolutions: int
    """Number of convolutions."""

    def check(self, batch: int = 1) -> None:
        """Refuse a network, or a run of a fixed batch, that asks for more than the limits.

        Args:
            batch: images of a run.

        Raises:
            ValueError: one of the numbers is above its limit; the message has both.
        """
        for value, limit, unit in (
            (batch, MAX_BATCH, "images of a fixed batch"),
            (self.convolutions, MAX_CONVOLUTIONS, "convolutions"),
            (self.weights, MAX_WEIGHTS, "weights"),
        ):
            if value > limit:
                raise ValueError(f"{value:,} {unit}, expected at most {limit:,}")
        for images, factor, title in (
            (1, 1, "one image"),
            (batch, MAX_BATCH_WORK, f"a fixed batch of {batch:,} images"),
        ):
            for value, limit, unit in (
                (self.multiply_adds, MAX_MULTIPLY_ADDS, "multiply-adds"),
                (self.largest, MAX_TENSOR, "elements of a tensor"),
                (self.total, MAX_TENSORS, "elements of all tensors together"),
            ):
                if images * value > factor * limit:
                    raise ValueError(
                        f"{title} takes {images * value:,} {unit}, "
                        f"expected at most {factor * limit:,}"
                    )


def convolution_work(inputs: int, outputs: int, kernel: int, side: int) -> Work:
    """The work of one convolution, with its output as the only tensor.

    In int8, ONNX Runtime lays the patches of all pixels side by side, a byte an element: they count
    a quarter.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: elements of the kernel's window, k * k.
        side: pixels of the output, h * w.
    """
    patches = inputs * kernel * side // 4 if kernel > 1 else 0
    maps = outputs * side
    weights = inputs * outputs * kernel
    return Work(weights * side, max(maps, patches), maps + patches, weights, 1)

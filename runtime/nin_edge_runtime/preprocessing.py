"""Upright RGB pixels -> the network's input: one definition, for devices and for training.

Crop the centre square, resize it (Pillow's `BILINEAR`, which is anti-aliased) and normalise. The
classifier and the training data use this code. An exported model carries the same steps in its own
graph, for programs that have neither Python nor Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from nin_edge_runtime.image import (
    MAX_PIXELS,
    ImageSource,
    Upright,
    as_array,
    check_array,
    open_upright,
)
from nin_edge_runtime.samples import strips

if TYPE_CHECKING:
    from numpy.typing import NDArray  # importing it takes a tenth of NumPy's own import time

DRAFT_SCALE: Final = 8
"""A JPEG may be decoded at a reduced scale that leaves this many pixels for one of the network's.

benchmarks/draft.py measures the effect on the probabilities.
"""


def center_crop_box(height: int, width: int) -> tuple[int, int, int, int]:
    """The centred square that the network sees, as (left, top, right, bottom) in pixels.

    Its side is the shorter one; odd remainders leave the extra pixel at the right or the bottom.
    """
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


@dataclass(frozen=True)
class Preprocessing:
    """How RGB pixels become the network's input; stored in every checkpoint and model."""

    size: int
    """Side S of the network's input, 1 to 4096 pixels."""
    channels: int
    """C: 3 for RGB, 1 for luma."""
    mean: tuple[float, ...]
    """Mean of each channel over the training images, 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel over the training images, above 0 and at most 1."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be a normalisation.

        Raises:
            ValueError: a count or a range is off.
        """
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise ValueError(f"preprocessing: {self.channels} channels, expected 1 or 3")
        if type(self.size) is not int or not 1 <= self.size <= 4096:
            raise ValueError(f"preprocessing: size {self.size}, expected 1 to 4096 pixels")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"preprocessing: expected a mean and a std for each of {self.channels} channels"
            )
        if not all(0 <= mean <= 1 for mean in self.mean) or not all(
            0 < std <= 1 for std in self.std
        ):
            raise ValueError(
                "preprocessing: expected each mean in 0 to 1 and each std above 0, at most 1"
            )

    def load(
        self,
        source: ImageSource,
        *,
        bgr: bool = False,
        max_pixels: int = MAX_PIXELS,
        max_value: int | None = None,
        draft: bool = False,
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Load any input as the pixels that the network sees: `load_image`, then `resize`.

        Args:
            source: see `load_image`.
            bgr: see `load_image`.
            max_pixels: see `load_image`.
            max_value: see `load_image`.
            draft: decode a large JPEG at a reduced scale, which is several times as fast and
                changes the result slightly (`DRAFT_SCALE`).

        Returns:
            uint8 (S, S, C), and the (height, width) of the upright image in full size.

        Raises:
            ImageError: see `load_image`.
        """
        if (array := as_array(source)) is not None:
            pixels = check_array(array, max_pixels)
            height, width, _ = pixels.shape
            return self.resize(pixels, bgr=bgr), (height, width)
        min_side = DRAFT_SCALE * self.size if draft else None
        with open_upright(
            source, bgr=bgr, max_pixels=max_pixels, max_value=max_value, min_side=min_side
        ) as image:
            return self._resized_in_strips(image), image.full_size

    def resize(self, pixels: NDArray[np.uint8], *, bgr: bool = False) -> NDArray[np.uint8]:
        """Centre-crop to a square, reduce to luma for one-channel networks, resize to S x S.

        Args:
            pixels: RGB or grey, uint8 (H, W, 3) or (H, W, 1).
            bgr: the three channels are blue, green, red.

        Returns:
            uint8 (S, S, C); an input of this very shape comes back as it is.
        """
        height, width, channels = pixels.shape
        if height == width == self.size and channels == self.channels:
            return pixels[:, :, ::-1] if bgr and channels == 3 else pixels
        # Crop first: with Pillow's own `box` argument the filter would read pixels outside the box,
        # which the exported graph cannot do.
        left, top, right, bottom = center_crop_box(height, width)
        return self._resized(_to_pil(pixels[top:bottom, left:right], bgr=bgr))

    def _resized_in_strips(self, image: Upright) -> NDArray[np.uint8]:
        """Resize the centre square of an image, of which little is converted to RGB at a time.

        Pillow resizes each row first, and then the columns, to 8 bits both times: so rows may be
        resized a strip at a time, with an equal result.
        """
        left, top, right, bottom = center_crop_box(image.height, image.width)
        side = right - left
        parts = list(strips(side, side))
        if len(parts) == 1:
            return self._resized(image.rgb((left, top, right, bottom)))
        narrow = Image.new("L" if self.channels == 1 else "RGB", (self.size, side))
        for first, last in parts:
            strip = image.rgb((left, top + first, right, top + last))
            strip = strip.convert(narrow.mode)
            strip = strip.resize((self.size, strip.height), Image.Resampling.BILINEAR)
            narrow.paste(strip, (0, first))
        return self._resized(narrow)

    def _resized(self, square: Image.Image) -> NDArray[np.uint8]:
        if self.channels == 1:
            square = square.convert("L")
        resized = square.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if self.channels == 3:
            resized = resized.convert("RGB")  # of a grey array
        return np.asarray(resized).reshape(self.size, self.size, self.channels)

    @property
    def zero_point(self) -> int | None:
        """The pixel value, 0 to 255, that becomes 0; None unless one scale serves all channels.

        Then the pixels are already quantised: `(pixel - zero_point) * scale` is ONNX's
        `DequantizeLinear`, and an int8 network takes them without rounding.
        """
        value = round(255 * self.mean[0])
        return value if set(self.mean) == {value / 255} and len(set(self.std)) == 1 else None

    def scale_and_shift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Normalisation as one multiplication and one addition per channel, each (C,) float32.

        `pixel * scale + shift` equals `(pixel / 255 - mean) / std`. PyTorch, NumPy and the exported
        graph all use these numbers, so that their inputs differ by one unit in the last place at
        most.
        """
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized pixels, uint8 (N, S, S, C), to the network's input, float32 (N, C, S, S)."""
        scale, shift = self.scale_and_shift()
        return np.ascontiguousarray((pixels * scale + shift).transpose(0, 3, 1, 2))  # NHWC -> NCHW


def _to_pil(pixels: NDArray[np.uint8], *, bgr: bool) -> Image.Image:
    """Copy an array (H, W, 3) or (H, W, 1) to a PIL image in one pass.

    Pillow's raw decoder reads BGR, and rows that are part of longer ones: a video frame is cropped
    and its channels are swapped while it is copied.
    """
    height, width, channels = pixels.shape
    if channels == 1:  # Pillow would map its memory, and wants all of the last row for that
        return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0]))
    stride = pixels.strides[0]  # bytes from one row to the next
    if pixels.strides[1:] != (channels, 1) or not width * channels <= stride < 2**31:
        pixels, stride = np.ascontiguousarray(pixels), width * channels
    flat = np.lib.stride_tricks.as_strided(
        pixels, (stride * (height - 1) + width * channels,), (1,), writeable=False
    )
    raw_mode = "BGR" if bgr else "RGB"
    return Image.frombuffer("RGB", (width, height), flat, "raw", raw_mode, stride, 1)

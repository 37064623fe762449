"""Samples of more than 8 bits: their range, and their conversion to 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from nin_edge_runtime.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray  # importing it takes a tenth of NumPy's own import time

_STRIP_PIXELS: Final = 1 << 20  # converted at a time, in up to 16 bytes each
_SAMPLE_LIMIT: Final = 0xFFFF  # of 16 bits
_DEPTHS: Final = (8, 10, 12, 14)  # of cameras, in bits, whose samples are stored in 16

_logger = logging.getLogger(__name__)
_warned: Final[set[int]] = set()  # depths that a warning has named


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of parts of an image that are converted one after the other."""
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def check_grey(image: Image.Image, name: str, max_value: int | None) -> None:
    """Check the range of grey of more than 8 bits, and warn where it leaves most of it unused.

    Raises:
        ImageError: it is not that of 16 bits.
    """
    if max_value is not None:
        return
    lowest = highest = 0
    for top, bottom in strips(image.height, image.width):
        samples = np.asarray(image.crop((0, top, image.width, bottom)))
        lowest, highest = min(lowest, int(samples.min())), max(highest, int(samples.max()))
    if lowest < 0 or highest > _SAMPLE_LIMIT:
        raise ImageError(f"{name}: samples beyond 16 bits, expected 0 to 65535")
    warn_if_dark(highest, name)


def warn_if_dark(highest: int, name: str, *, estimated: bool = False) -> None:
    """Warn, once for each depth of cameras, of samples that are dark on the scale of 16 bits."""
    depth = next((depth for depth in _DEPTHS if highest < 1 << depth), None)
    if depth is None or not highest or depth in _warned:
        return
    _warned.add(depth)
    most = (1 << depth) - 1
    _logger.warning(
        "%s: its largest sample is %s of 65535, so it is dark; for a camera of %d bits, pass "
        "max_value=%d to Classifier(...), or multiply the file's samples by %d",
        *(name, f"about {highest}" if estimated else highest, depth, most, _SAMPLE_LIMIT // most),
        extra={"depth": depth},
    )


def levels(samples: NDArray[Any], max_value: int) -> NDArray[np.uint8]:
    """Samples as 8 bits, with the largest value as white."""
    clipped = samples.clip(0, max_value).astype(np.int64)
    return ((clipped * 255 + max_value // 2) // max_value).astype(np.uint8)


def eight_bits(image: Image.Image, max_value: int | None) -> Image.Image:
    """Convert 16-bit grey to 8 bits: the high byte, which Pillow also takes of 16-bit colour."""
    samples = np.asarray(image)
    scaled = (samples >> 8).astype(np.uint8) if max_value is None else levels(samples, max_value)
    grey = Image.fromarray(scaled)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # one of the 65,536 levels of grey
        grey.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    return grey

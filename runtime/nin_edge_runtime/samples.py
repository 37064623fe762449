"""Samples of more than 8 bits: their range, and their conversion to 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image

from nin_edge_runtime.errors import ImageError

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


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file's samples of colour have 16 bits, of which Pillow keeps 8."""
    tile = getattr(image, "tile", None)
    raw_mode = tile[0][3] if tile else None
    raw_mode = raw_mode[0] if isinstance(raw_mode, tuple) and raw_mode else raw_mode
    return isinstance(raw_mode, str) and ";16" in raw_mode and image.mode in ("RGB", "RGBA", "LA")


def check_samples(image: Image.Image, name: str, max_value: int | None) -> None:
    """Check the range of samples of more than 8 bits, and warn where they leave most of it unused.

    Raises:
        ImageError: it is not that of 16 bits; or `max_value` is given for colour.
    """
    deep_colour = not image.mode.startswith("I")
    if deep_colour and max_value is not None:
        raise ImageError(
            f"{name}: 16-bit samples of colour, of which Pillow keeps the upper 8 bits; max_value "
            "is for grey alone, so scale the samples yourself and pass an array"
        )
    lowest = highest = 0
    for top, bottom in strips(image.height, image.width):
        samples = np.asarray(image.crop((0, top, image.width, bottom)))
        if deep_colour and image.mode.endswith("A"):
            samples = samples[..., :-1]
        lowest, highest = min(lowest, int(samples.min())), max(highest, int(samples.max()))
    if max_value is None and (lowest < 0 or highest > _SAMPLE_LIMIT):
        raise ImageError(f"{name}: samples beyond 16 bits, expected 0 to 65535")
    if deep_colour:
        highest <<= 8
    if max_value is None and 0 < highest < 1 << max(_DEPTHS):
        _warn_of_dark(name, highest, deep_colour=deep_colour)


def _warn_of_dark(name: str, highest: int, *, deep_colour: bool) -> None:
    """Warn, once for each depth, of samples that are dark on the scale of 16 bits."""
    depth = next(depth for depth in _DEPTHS if highest < 1 << depth)
    if depth in _warned:
        return
    _warned.add(depth)
    most = (1 << depth) - 1
    _logger.warning(
        "%s: its largest sample is %s of 65535, so it is dark; for a camera of %d bits, %s",
        name,
        f"about {highest}" if deep_colour else highest,
        depth,
        f"scale the samples by {_SAMPLE_LIMIT // most}"
        if deep_colour
        else f"pass max_value={most} to Classifier(...)",
    )


def eight_bits(image: Image.Image, max_value: int | None) -> Image.Image:
    """Convert 16-bit grey to 8 bits: the high byte, which Pillow also takes of 16-bit colour."""
    samples = np.asarray(image)
    if max_value is None:
        levels = samples >> 8
    else:
        levels = (samples.clip(0, max_value).astype(np.int64) * 255 + max_value // 2) // max_value
    grey = Image.fromarray(levels.astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # one of the 65,536 levels of grey
        grey.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    return grey

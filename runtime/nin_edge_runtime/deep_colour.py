"""Colour of 16 bits a sample, of which Pillow keeps the high byte: the low one, too.

Pillow can be told the order of the two bytes. Told the wrong one, it keeps the low byte. So a
second decoding gives what cameras of 10 or 12 bits need.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np
from PIL import Image

from nin_edge_runtime.errors import ImageError
from nin_edge_runtime.samples import levels, strips, warn_if_dark

if TYPE_CHECKING:
    from numpy.typing import NDArray  # importing it takes a tenth of NumPy's own import time

Again: TypeAlias = Callable[[], Image.Image]
"""Opens an image once more."""

_MODES: Final = ("RGB", "RGBA", "LA")
_NATIVE: Final = {"little": "L", "big": "B"}[sys.byteorder]
_OTHER: Final = {"L": "B", "B": "L"}
_GREY_ALPHA: Final = "LA;16B"  # of PNG; Pillow gives it as RGBA
_FOUR_BYTES: Final = "RGBA"  # both bytes of grey and of alpha, as four samples


def deep_layout(image: Image.Image) -> str | None:
    """Layout of a file's samples if they are colour of 16 bits, before it is decoded; else None."""
    tiles = getattr(image, "tile", None)
    layout = tiles[0][3] if tiles else None
    layout = layout[0] if isinstance(layout, tuple) and layout else layout
    deep = isinstance(layout, str) and ";16" in layout and image.mode in _MODES
    return cast(str, layout) if deep else None


def check_colour(image: Image.Image, again: Again | None, layout: str, name: str) -> None:
    """Warn where the samples leave most of the range unused.

    Args:
        image: with the high bytes.
        again: opens the file another time; None if there is no file.
        layout: from `deep_layout`.
        name: of the file.
    """
    highest = max(int(most) for _, most in _colour_extrema(image)) << 8
    if highest:
        warn_if_dark(highest, name, estimated=True)
    elif again is not None:  # black, or 8 bits of 16
        low = _decoded_low(again(), layout, name)
        samples = (
            _samples(image, low, layout, part)[..., : _colours(image)] for part in _parts(image)
        )
        warn_if_dark(max(int(part.max()) for part in samples), name)


def scaled_colour(
    image: Image.Image, again: Again | None, layout: str, name: str, max_value: int
) -> Image.Image:
    """Convert to 8 bits with another sample than 65535 as white.

    Args:
        image: with the high bytes; overwritten.
        again: see `check_colour`.
        layout: see `check_colour`.
        name: see `check_colour`.
        max_value: the sample that is white. Alpha has this range too, unless it has larger samples.

    Raises:
        ImageError: the low bytes cannot be read.
    """
    if again is None:
        raise ImageError(
            f"{name}: 16-bit samples of colour, of which a PIL image has 8 bits; pass the file for "
            "max_value to count"
        )
    colour = image.info.pop("transparency", None)
    low = _decoded_low(again(), layout, name)
    if colour is not None and image.mode == "RGB":
        image = image.convert("RGBA")
    opaque = max(int(_samples(image, low, layout, part)[..., -1].max()) for part in _parts(image))
    for part in _parts(image):
        samples = _samples(image, low, layout, part)
        scaled = levels(samples, max_value)
        if isinstance(colour, tuple):
            scaled[..., 3] = np.where((samples[..., :3] == colour).all(axis=-1), 0, 255)
        elif image.mode != "RGB" and opaque > max_value:
            scaled[..., -1] = samples[..., -1] >> 8
        image.paste(Image.fromarray(scaled, image.mode), part)
    return image


def _colours(image: Image.Image) -> int:
    """Number of its bands without alpha."""
    return len(image.getbands()) - image.mode.endswith("A")


def _colour_extrema(image: Image.Image) -> list[tuple[int, int]]:
    """(least, largest) sample of each band of colour."""
    return cast("list[tuple[int, int]]", image.getextrema())[: _colours(image)]


def _parts(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of the image, which are converted one after the other."""
    return ((0, top, image.width, bottom) for top, bottom in strips(image.height, image.width))


def _samples(
    high: Image.Image, low: Image.Image, layout: str, box: tuple[int, int, int, int]
) -> NDArray[np.uint16]:
    """All 16 bits of a part of an image, (h, w, bands)."""
    upper, lower = np.asarray(high.crop(box)), np.asarray(low.crop(box))
    if layout == _GREY_ALPHA:
        lower = lower[..., [1, 1, 1, 3]]
    elif upper.shape[2] > lower.shape[2]:  # a transparent colour added alpha
        lower = np.pad(lower, ((0, 0), (0, 0), (0, 1)), constant_values=255)
    samples: NDArray[np.uint16] = upper.astype(np.uint16) << 8 | lower
    return samples


def _decoded_low(image: Image.Image, layout: str, name: str) -> Image.Image:
    """Decode the low bytes of the samples; of grey with alpha, all four bytes.

    Raises:
        ImageError: Pillow cannot.
    """
    order = layout[-1] if layout[-1] in _OTHER else _NATIVE
    other = _FOUR_BYTES if layout == _GREY_ALPHA else layout[:-1] + _OTHER[order]
    tiles: list[Any] = image.tile  # type: ignore[attr-defined]
    for place, tile in enumerate(tiles):
        arguments = (other, *tile[3][1:]) if isinstance(tile[3], tuple) else other
        named = hasattr(tile, "_replace")  # not before Pillow 11
        tiles[place] = tile._replace(args=arguments) if named else (*tile[:3], arguments)
    try:
        image.load()
    except ValueError as error:  # an unknown layout
        raise ImageError(
            f"{name}: 16-bit samples of colour as {layout}, of which Pillow keeps the upper 8 "
            "bits; scale the samples yourself, and pass an array"
        ) from error
    return image

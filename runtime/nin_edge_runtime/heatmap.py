"""Heatmaps: the class activation map drawn over the photo.

The position of a map's cell follows from the network's layers; dividing the photo evenly into cells
would be wrong. Convolutions keep the size and are centred. Each pooling is 3 x 3 with stride 2 and
padding 1: its output i covers the inputs 2 i - 1, 2 i and 2 i + 1, so it is centred on input 2 i. A
first convolution with stride 2 or 4 counts as one or two of them. After p poolings, cell i is
centred on pixel 2^p i of the network's input, whose centre is at 2^p i + 1/2. (Resizing the map
like an image would put it at 2^p (i + 1/2): for the usual p = 2 and S = 32, that is 5% of the side
too far to the right and the bottom.) The network's input is `Prediction.crop` resized to S x S,
which places the cells on the photo.
"""

from __future__ import annotations

import math
import unicodedata
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nin_edge_runtime.errors import ImageError, NinEdgeError
from nin_edge_runtime.fonts import find_font
from nin_edge_runtime.image import MAX_PIXELS, ImageSource, load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nin_edge_runtime.classifier import Prediction

MAX_SIDE: Final = 2048
"""Longest side of the photo in the picture, in pixels; a larger photo is reduced to it."""

_SMALL_SIDE = 256  # pixels; a smaller photo is enlarged by the largest whole factor within this
_OF_SCORES = " 0123456789.%"
_MIN_WIDTH = 192  # of the picture, in pixels: the caption needs it
_STRIDE = 4  # assumed distance of the map's cells, in pixels of the network's input: two poolings
_INSIDE, _OUTSIDE = 0.75, 0.35  # brightness of the photo inside and outside the crop
# Heat is laid over the grey photo. More heat is brighter, more opaque, and goes from brown to
# yellow, so that with any common colour blindness brightness or colour still shows it.
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_COLOURS = ((120, 40, 0), (150, 50, 0), (213, 94, 0), (240, 160, 10), (255, 240, 60))
_OPACITY = (0.0, 0.1, 0.4, 0.6, 0.8)
_LINE_LEVEL = 0.5  # a line surrounds hotter regions, for viewers who do not see colours
_LUMA = (0.299, 0.587, 0.114)
_BAR, _WHITE = (16, 16, 16), (255, 255, 255)


def overlay(
    image: ImageSource,
    prediction: Prediction,
    *,
    size: int | None = None,
    bgr: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_value: int | None = None,
) -> Image.Image:
    """Draw the map of the top class over the photo, with the label and the score below it.

    The photo turns grey in the square that the network saw, and yellow where the map is at its
    maximum; a white line marks the level half-way between its minimum and its maximum. The rest of
    the photo is dimmed. The colour scale runs from the map's own minimum to its own maximum:
    compare regions of one picture, not two pictures.

    Args:
        image: the classified image, as for `load_image`.
        prediction: its prediction.
        size: side S of the network's input, `classify.info.preprocessing.size`. If None, it is
            derived from the map's side, for two poolings and an S that is a multiple of 4.
        bgr: the array's three channels are blue, green, red (OpenCV's order).
        max_pixels: largest accepted image, in pixels.
        max_value: that of the classifier.

    Returns:
        RGB. The upright photo is at the top left, at its own size, or enlarged by a whole factor
        if it is small, or reduced to `MAX_SIDE`; the caption is below it.

    Raises:
        ImageError: the image cannot be read, or the prediction is of an image of another size.
        NinEdgeError: the network's class maps are 1 x 1, as after a fully connected layer.
    """
    if prediction.class_map.size == 1:
        raise NinEdgeError(
            "no heatmap: this network's class maps are 1 x 1, as after a fully connected layer"
        )
    pixels = load_image(image, bgr=bgr, max_pixels=max_pixels, max_value=max_value)
    height, width, _ = pixels.shape
    left, top, right, bottom = prediction.crop
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ImageError(
            f"image of {width} x {height} pixels: the prediction's crop {prediction.crop} is not "
            "in it, expected the image that was classified"
        )
    photo = _scaled(pixels)
    del pixels  # frees a large image before the drawing
    rows = (np.arange(photo.height) + 0.5) * height / photo.height  # in the photo's own pixels
    columns = (np.arange(photo.width) + 0.5) * width / photo.width
    seen_rows, seen_columns = (rows > top) & (rows < bottom), (columns > left) & (columns < right)
    heat = _heat(
        prediction.class_map,
        (rows[seen_rows] - top) / (bottom - top),
        (columns[seen_columns] - left) / (right - left),
        size,
    )
    drawn = np.array(photo)
    del photo
    inside = drawn[np.ix_(seen_rows, seen_columns)]
    drawn = (drawn * np.float32(_OUTSIDE)).astype(np.uint8)
    drawn[np.ix_(seen_rows, seen_columns)] = _painted(inside, heat)
    return _with_text(Image.fromarray(drawn), _caption(prediction))


def _scaled(pixels: NDArray[np.uint8]) -> Image.Image:
    """Resize the photo for viewing."""
    photo = Image.fromarray(np.ascontiguousarray(pixels))
    longest = max(photo.size)
    if longest > MAX_SIDE:
        width, height = (max(1, round(side * MAX_SIDE / longest)) for side in photo.size)
        return photo.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    factor = max(1, _SMALL_SIDE // longest)
    return photo.resize((photo.width * factor, photo.height * factor), Image.Resampling.NEAREST)


def _heat(
    class_map: NDArray[np.float32],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    size: int | None,
) -> NDArray[np.float32]:
    """Interpolate the map at positions of the crop, 0 (its minimum) to 1 (its maximum).

    Args:
        class_map: (h, w).
        rows: (H,) distances from the top of the crop, 0 to 1 of its side.
        columns: (W,) distances from its left.
        size: side S of the network's input, if known.

    Returns:
        (H, W); all 0 for a constant map.
    """
    low, high = float(class_map.min()), float(class_map.max())
    if not low < high:
        return np.zeros((len(rows), len(columns)), np.float32)
    level = (class_map.astype(np.float64) - low) / (high - low)
    down, across = (
        _weights(cells, positions, size)
        for cells, positions in zip(class_map.shape, (rows, columns), strict=True)
    )
    heat: NDArray[np.float32] = (down @ level @ across.T).astype(np.float32)
    return heat  # (H, h) (h, w) (w, W) -> (H, W)


def _weights(cells: int, positions: NDArray[np.float64], size: int | None) -> NDArray[np.float64]:
    """Linear interpolation from a map's cells to positions, as a matrix (positions, cells).

    Positions beyond the outermost cells get the value of those.
    """
    side = size or cells * _STRIDE
    stride = 2 ** math.ceil(math.log2(side / cells))  # each pooling halves, rounding up
    centres = stride * np.arange(cells) + 0.5
    identity = np.eye(cells)
    return np.stack([np.interp(positions * side, centres, row) for row in identity], axis=1)


def _painted(photo: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay heat (H, W) over the photo (H, W, 3) in grey."""
    grey = photo @ np.asarray(_LUMA, np.float32) * np.float32(_INSIDE)  # (H, W, 3) -> (H, W)
    opacity = np.interp(heat, _LEVELS, _OPACITY).astype(np.float32)
    painted = np.empty_like(photo)
    for channel, levels in enumerate(zip(*_COLOURS, strict=True)):
        colour = np.interp(heat, _LEVELS, levels).astype(np.float32)
        painted[:, :, channel] = grey + opacity * (colour - grey) + 0.5
    painted[_outline(heat >= _LINE_LEVEL)] = _WHITE
    return painted


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the pixels along the border of a region (H, W)."""
    thick = max(1, max(inside.shape) // 400)
    line = np.zeros_like(inside)
    line[thick:] |= inside[thick:] != inside[:-thick]
    line[:, thick:] |= inside[:, thick:] != inside[:, :-thick]
    return line


def _caption(prediction: Prediction) -> tuple[str, str, Path | None]:
    """Return the label, the score, and the font that they need; None for Pillow's own.

    Pillow's own font has ASCII alone: accents are dropped. For other characters, a font of the
    system is used; where there is none, they are escaped.
    """
    label = f"unknown: {prediction.label}" if prediction.unknown else prediction.label
    score = f" {prediction.score:.1%}"
    plain = "".join(
        char for char in unicodedata.normalize("NFKD", label) if not unicodedata.combining(char)
    )
    if not plain.isascii():
        shown = "".join(char if char.isprintable() else _escaped(char) for char in label)
        font = find_font(shown + _OF_SCORES)  # one search for all scores
        if font is not None:
            return shown, score, font
    keep = (char if char.isascii() and char.isprintable() else _escaped(char) for char in plain)
    return "".join(keep), score, None


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _with_text(photo: Image.Image, caption: tuple[str, str, Path | None]) -> Image.Image:
    """Add a strip with the caption below the photo; a label that is too long is cut."""
    width = max(photo.width, _MIN_WIDTH)
    points = min(max(width // 20, 14), 64)
    room = width - points  # a margin of half a letter's height at either side
    label, score, path = caption
    open_font = partial(ImageFont.truetype, str(path)) if path else ImageFont.load_default
    font = open_font(points)
    if font.getlength(label + score) > room:  # smaller letters first, then fewer
        points = max(12, int(points * room / font.getlength(label + score)))
        font = open_font(points)
    text = label + score
    while font.getlength(text) > room and label:
        label = label[:-1]
        text = f"{label.rstrip()}…{score}"
    strip = 2 * points
    picture = Image.new("RGB", (width, photo.height + strip), _BAR)
    picture.paste(photo, (0, 0))
    middle = (points // 2, photo.height + strip // 2)
    ImageDraw.Draw(picture).text(middle, text, _WHITE, font, anchor="lm")
    return picture

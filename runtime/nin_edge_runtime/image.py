"""Any input -> upright RGB pixels: one definition of a decoded image, for devices and for training.

`preprocessing.py` turns these pixels into the network's input.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from nin_edge_runtime.deep_colour import check_colour, deep_layout, scaled_colour
from nin_edge_runtime.errors import ImageError
from nin_edge_runtime.folders import HEAD_BYTES, image_format
from nin_edge_runtime.folders import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from nin_edge_runtime.folders import find_images as find_images
from nin_edge_runtime.samples import check_grey, eight_bits, strips

if TYPE_CHECKING:
    from numpy.typing import NDArray  # importing it takes a tenth of NumPy's own import time

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | IO[bytes] | Image.Image | NDArray[np.uint8]"
)
"""What `load_image` takes: a path, encoded bytes, a binary file, a PIL image, a uint8 array."""

MAX_PIXELS: Final = 100_000_000
"""Largest image that is decoded, in pixels: a small file can claim to be a huge one."""

# Pillow decodes these with an external program (Ghostscript), a system driver or a handler that the
# application registers: decoding untrusted data must start none of them.
_EXTERNAL_FORMATS: Final = ("EPS", "WMF", "BUFR", "GRIB", "HDF5")
_ORIENTATION_TAG: Final = 0x0112
# EXIF orientation -> the transposition that turns the stored pixels upright (EXIF 2.3, tag 274).
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES: Final = (5, 6, 7, 8)  # orientations that exchange width and height
_FROM_THE_RIGHT: Final = (2, 3, 7, 8)  # that mirror columns of the stored pixels
_FROM_THE_BOTTOM: Final = (3, 4, 6, 7)  # that mirror its rows


def load_image(
    source: ImageSource,
    *,
    bgr: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_value: int | None = None,
) -> NDArray[np.uint8]:
    """Decode any input to upright RGB.

    Files and PIL images have their EXIF orientation applied, transparency laid over white, 16-bit
    samples scaled to 8 bits, and only the first frame of an animation read. Arrays are taken as
    they are. HEIC images need the package `pillow-heif`.

    Args:
        source: path, encoded bytes, binary file, PIL image, or uint8 array (H, W, 3), (H, W, 1) or
            (H, W).
        bgr: the array's three channels are blue, green, red (OpenCV's order). For arrays only.
        max_pixels: largest accepted image, in pixels.
        max_value: sample that is white in images of more than 8 bits, such as 1023 for a camera of
            10 bits; larger ones are white, too. If None, 65535.

    Returns:
        uint8 (H, W, 3), RGB; it may share memory with a given array.

    Raises:
        ImageError: the input cannot be read as an image; the message names it and gives the reason.
    """
    if (array := as_array(source)) is not None:
        pixels = check_array(array, max_pixels)
        if pixels.shape[2] == 1:
            return np.repeat(pixels, 3, axis=2)
        return pixels[:, :, ::-1] if bgr else pixels
    with open_upright(source, bgr=bgr, max_pixels=max_pixels, max_value=max_value) as image:
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        for top, bottom in strips(image.height, image.width):
            pixels[top:bottom] = np.asarray(image.rgb((0, top, image.width, bottom)))
    return pixels


def as_array(source: object) -> NDArray[Any] | None:
    """The array that an input is or converts to, as a torch tensor does; None for other inputs.

    Raises:
        ImageError: the conversion fails; the message gives the reason.
    """
    if isinstance(source, Image.Image):
        return None
    try:
        return np.asarray(source) if hasattr(source, "__array__") else None
    except Exception as error:  # a tensor on a GPU, or one with a gradient
        name = type(source).__name__
        raise ImageError(f"{name}: cannot be converted to an array ({_reason(error)})") from error


def check_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    """Return an image array as (H, W, 3) or (H, W, 1).

    Raises:
        ImageError: the array is no image; the message says which type and shape is expected.
    """
    pixels = array[:, :, np.newaxis] if array.ndim == 2 else array
    if array.dtype != np.uint8:
        expected = "uint8, 0 to 255 (scale floats yourself: only you know their range)"
    elif pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        expected = "(H, W, 3), (H, W, 1) or (H, W)"
        if array.ndim == 3 and array.shape[0] in (1, 3):
            expected += ", channels last: array.transpose(1, 2, 0)"
    elif not pixels.size:
        expected = "at least one pixel"
    else:
        _check_pixels(pixels.shape[1], pixels.shape[0], "array", max_pixels)
        return pixels
    raise ImageError(f"array of {array.dtype} with shape {array.shape}: expected {expected}")


@dataclass(frozen=True, eq=False)
class Upright:
    """A decoded image, converted to upright RGB a part at a time, since that takes memory."""

    height: int
    """Of the upright image, in pixels."""
    width: int
    """Of the upright image, in pixels."""
    full_size: tuple[int, int]
    """(height, width) before it was decoded at a reduced scale."""
    stored: Image.Image
    """The image as it is stored."""
    orientation: int
    """EXIF orientation, 1 to 8."""
    transparent: int | tuple[int, ...] | None
    """The transparent colour, if it is not that of `stored.info`."""
    max_value: int | None
    """See `load_image`."""

    def rgb(self, box: tuple[int, int, int, int]) -> Image.Image:
        """A part of the upright image, (left, top, right, bottom), as 8-bit RGB."""
        left, top, right, bottom = box
        if self.orientation in _SWAPS_SIDES:
            left, top, right, bottom = top, left, bottom, right
        width, height = self.stored.size
        if self.orientation in _FROM_THE_RIGHT:
            left, right = width - right, width - left
        if self.orientation in _FROM_THE_BOTTOM:
            top, bottom = height - bottom, height - top
        # A copy, also of the whole: the caller's image stays as it is.
        part = self.stored.crop((left, top, right, bottom))
        if self.transparent is not None:
            part.info["transparency"] = self.transparent
        part = _flattened(part, self.max_value)
        if self.orientation in _UPRIGHT:
            part = part.transpose(_UPRIGHT[self.orientation])
        return part


@contextmanager
def open_upright(
    source: ImageSource,
    *,
    bgr: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_value: int | None = None,
    min_side: int | None = None,
) -> Iterator[Upright]:
    """Decode any input but an array.

    Args:
        source: see `load_image`.
        bgr: refused here, because it describes arrays.
        max_pixels: see `load_image`.
        max_value: see `load_image`.
        min_side: allow a JPEG to be decoded at a reduced scale, with its shorter side at least this
            long, in pixels.

    Yields:
        The image, which is open until the context ends.

    Raises:
        ImageError: see `load_image`.
    """
    name = _name(source)
    if bgr:
        raise ImageError(f"{name}: bgr=True describes arrays; other inputs know their channels")
    try:
        if isinstance(source, Image.Image):
            yield _decode(source, name, max_pixels, max_value)
            return
        file: Any = source
        if isinstance(source, (bytes, bytearray, memoryview)):
            if not len(source):
                raise ImageError(f"{name}: empty, expected an encoded image")
            file = io.BytesIO(source)
        elif isinstance(source, (str, os.PathLike)):
            _require_file(source)
            if (path := Path(os.fsdecode(source))).is_fifo():  # a pipe is read once
                file = io.BytesIO(path.read_bytes())
        elif not hasattr(source, "read"):
            raise ImageError(
                f"{type(source).__name__}: "
                "expected a path, bytes, a binary file, a PIL image or a uint8 array"
            )
        elif hasattr(source, "seekable") and not source.seekable():  # this one, too
            file = io.BytesIO(source.read())
        with _open(file, name) as image:
            yield _decode(image, name, max_pixels, max_value, min_side, file)
    except ImageError:
        raise
    except Exception as error:  # a damaged file can surface as almost anything from the decoders
        raise ImageError(f"{name}: cannot be decoded ({_reason(error)})") from error


def _open(file: Any, name: str) -> Image.Image:
    """Open an encoded image; HEIC with the package that reads it, if there is one."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        encoded = image_format(_start(file))
    if encoded == "AVIF":
        raise ImageError(f"{name}: AVIF, which this Pillow cannot read: pip install -U pillow")
    if encoded != "HEIC":
        raise ImageError(f"{name}: not an image in a format that Pillow reads")
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            f"{name}: HEIC, an iPhone's format, which needs a package: pip install pillow-heif"
        ) from error
    pillow_heif.register_heif_opener()
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: a HEIC image that pillow-heif cannot read") from None


def _open_again(file: Any, name: str, stack: ExitStack) -> Image.Image:
    """Open an encoded image a second time; its caller's file stays open."""
    image: Image.Image = stack.enter_context(_open(file, name))
    return image


def _start(file: Any) -> bytes:
    """The first bytes of a path or of a file that Pillow could not identify."""
    if isinstance(file, (str, os.PathLike)):
        with Path(os.fsdecode(file)).open("rb") as opened:
            return opened.read(HEAD_BYTES)
    try:
        file.seek(0)
        start: bytes = file.read(HEAD_BYTES)
        file.seek(0)
    except Exception:  # a pipe
        return b""
    return start


def _decode(
    image: Image.Image,
    name: str,
    max_pixels: int,
    max_value: int | None,
    min_side: int | None = None,
    file: Any = None,
) -> Upright:
    """Decode the first frame of a PIL image, which was opened from a file if given."""
    full = image.size
    _check_pixels(*full, name, max_pixels)
    if image.format in _EXTERNAL_FORMATS:
        raise ImageError(f"{name}: {image.format}, which needs an external program to decode")
    transparent = _transparent_colour(image)
    deep_colour = deep_layout(image)
    if min_side is not None:
        image.draft(image.mode, (min_side, min_side))  # has no effect on formats other than JPEG
    reduced = image.size != full
    image.load()
    orientation = _orientation(image)  # after load(), in which Pillow turns TIFFs upright itself
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{name}: {image.width} x {image.height} pixels, expected at least one")
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels, expected 8 or 16 bits a sample")
    if image.mode.startswith("I"):
        check_grey(image, name, max_value)
    elif deep_colour:
        with ExitStack() as stack:
            again = None if file is None else partial(_open_again, file, name, stack)
            if max_value is None:
                check_colour(image, again, deep_colour, name)
            else:
                image = scaled_colour(image, again, deep_colour, name, max_value)
                transparent = None
    width, height = image.size[::-1] if orientation in _SWAPS_SIDES else image.size
    if not reduced:
        full = width, height
    elif orientation in _SWAPS_SIDES:
        full = full[::-1]
    return Upright(height, width, full[::-1], image, orientation, transparent, max_value)


def _flattened(image: Image.Image, max_value: int | None) -> Image.Image:
    """Convert a loaded image of any mode to 8-bit RGB, its transparency laid over white."""
    if image.mode.startswith("I"):
        image = eight_bits(image, max_value)
    if image.mode == "La":  # Pillow converts premultiplied grey to LA alone
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _transparent_colour(image: Image.Image) -> int | tuple[int, ...] | None:
    """Return the transparent colour of a PNG, scaled to 8 bits where Pillow leaves it unscaled.

    Pillow scales the samples of 2, 4 and 16 bits to 8, but leaves this colour as it is in the file.
    """
    colour = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    raw_mode = tile[0][3] if tile else None  # the samples' layout in the file
    if isinstance(colour, int) and raw_mode in ("L;2", "L;4"):
        return colour * (85 if raw_mode == "L;2" else 17)
    if isinstance(colour, tuple) and raw_mode == "RGB;16B":
        return tuple(sample >> 8 for sample in colour)
    return None


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; with unreadable EXIF the pixels may still be sound."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width} x {height} pixels, more than the {max_pixels:,} allowed")


def _require_file(path: str | os.PathLike[str]) -> None:
    """Check a path before decoding: the decoders' own messages are obscure."""
    try:
        file = Path(os.fsdecode(path))
        if not file.exists():
            raise ImageError(f"{_name(path)}: no such file")
        if file.is_dir():
            raise ImageError(f"{_name(path)}: a folder, expected an image file")
        if not file.is_file() and not file.is_fifo():  # a pipe is read to its end
            raise ImageError(f"{_name(path)}: a device or socket, expected an image file")
        if file.is_file() and not file.stat().st_size:
            raise ImageError(f"{_name(path)}: an empty file, expected an image")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{_name(path)}: {_reason(error)}") from error


def _name(source: object) -> str:
    """Return the name of an input for messages."""
    try:
        if isinstance(source, (str, os.PathLike)):
            return os.fsdecode(source)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return f"image of {len(source)} bytes"
        name = getattr(source, "name", None) or getattr(source, "filename", None)
    except Exception:  # a released view, or an object whose attributes fail
        return type(source).__name__
    return name if isinstance(name, str) and name else type(source).__name__


def _reason(error: BaseException) -> str:
    """Return an error's message on one line, or its type if it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__

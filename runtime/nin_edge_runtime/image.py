"""Any input -> upright RGB pixels: one definition of a decoded image, for devices and for training.

`preprocessing.py` turns these pixels into the network's input.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from nin_edge_runtime.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray  # importing it takes a tenth of NumPy's own import time

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | IO[bytes] | Image.Image | NDArray[np.uint8]"
)
"""What `load_image` takes: a path, encoded bytes, a binary file, a PIL image, a uint8 array."""

MAX_PIXELS: Final = 100_000_000
"""Largest image that is decoded, in pixels: a small file can claim to be a huge one."""

IMAGE_SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"}
)
"""Endings, in lower case, of the files that count as images when a folder is read."""

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


def load_image(
    source: ImageSource, *, bgr: bool = False, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode any input to upright RGB.

    Files and PIL images have their EXIF orientation applied, transparency laid over white, 16-bit
    samples scaled to 8 bits, and only the first frame of an animation read. Arrays are taken as
    they are.

    Args:
        source: path, encoded bytes, binary file, PIL image, or uint8 array (H, W, 3), (H, W, 1) or
            (H, W).
        bgr: the array's three channels are blue, green, red (OpenCV's order). For arrays only.
        max_pixels: largest accepted image, in pixels.

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
    return np.asarray(open_upright(source, bgr=bgr, max_pixels=max_pixels)[0])


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """List the given files, and the image files below the given folders: sorted, no hidden ones.

    Raises:
        ImageError: a folder has no image files.
    """
    images: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            images.append(path)
            continue
        in_folder = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        )
        if not in_folder:
            raise ImageError(f"{path}: a folder with no image files (such as .jpg or .png) in it")
        images += in_folder
    return images


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


def open_upright(
    source: ImageSource, *, bgr: bool, max_pixels: int, min_side: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode any input but an array to an upright RGB image.

    Args:
        source: see `load_image`.
        bgr: refused here, because it describes arrays.
        max_pixels: see `load_image`.
        min_side: allow a JPEG to be decoded at a reduced scale, with its shorter side at least this
            long, in pixels.

    Returns:
        The image, and the (height, width) of its full size.

    Raises:
        ImageError: see `load_image`.
    """
    if bgr:
        raise ImageError(
            f"{_name(source)}: bgr=True describes arrays; other inputs know their channels"
        )
    try:
        if isinstance(source, Image.Image):
            return _decode(source, _name(source), max_pixels)
        file: Any = source
        if isinstance(source, (bytes, bytearray, memoryview)):
            if not len(source):
                raise ImageError(f"{_name(source)}: empty, expected an encoded image")
            file = io.BytesIO(source)
        elif isinstance(source, (str, os.PathLike)):
            _require_file(source)
        elif not hasattr(source, "read"):
            raise ImageError(
                f"{type(source).__name__}: "
                "expected a path, bytes, a binary file, a PIL image or a uint8 array"
            )
        with Image.open(file) as image:
            return _decode(image, _name(source), max_pixels, min_side)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{_name(source)}: not an image in a format that Pillow reads") from None
    except Exception as error:  # a damaged file can surface as almost anything from the decoders
        raise ImageError(f"{_name(source)}: cannot be decoded ({_reason(error)})") from error


def _decode(
    image: Image.Image, name: str, max_pixels: int, min_side: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Convert the first frame of a PIL image to upright RGB, and give its full (height, width)."""
    full = image.size
    _check_pixels(*full, name, max_pixels)
    if image.format in _EXTERNAL_FORMATS:
        raise ImageError(f"{name}: {image.format}, which needs an external program to decode")
    transparent = _transparent_colour(image)
    if min_side is not None:
        image.draft(image.mode, (min_side, min_side))  # has no effect on formats other than JPEG
    reduced = image.size != full
    image.load()
    orientation = _orientation(image)  # after load(), in which Pillow turns TIFFs upright itself
    if transparent is not None:
        image = image.copy()  # the caller's image stays as it is
        image.info["transparency"] = transparent
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{name}: {image.width} x {image.height} pixels, expected at least one")
    image = _flattened(image, name)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if not reduced:
        full = image.size
    elif orientation in _SWAPS_SIDES:
        full = full[::-1]
    width, height = full
    return image, (height, width)


def _flattened(image: Image.Image, name: str) -> Image.Image:
    """Convert a loaded image of any mode to 8-bit RGB, its transparency laid over white."""
    if image.mode.startswith("I"):
        image = _eight_bits(image, name)
    elif image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels, expected 8 or 16 bits a sample")
    if image.mode == "La":  # Pillow converts premultiplied grey to LA alone
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Convert 16-bit grey to 8 bits: the high byte, which Pillow also takes of 16-bit colour."""
    samples = np.asarray(image)
    if samples.size and (samples.min() < 0 or samples.max() > 0xFFFF):
        raise ImageError(f"{name}: samples beyond 16 bits, expected 0 to 65535")
    grey = Image.fromarray((samples >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # one of the 65,536 levels of grey
        grey.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    return grey


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

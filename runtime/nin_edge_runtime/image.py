"""Any input -> the pixels the network sees: one definition, for devices and for training.

Two steps. `load_image` turns whatever the caller has into upright RGB bytes. `Preprocessing` crops
the centre square, resizes it (Pillow's `BILINEAR`, which is anti-aliased) and normalises. The
classifier and the training data take this one road; an exported model carries the same steps in its
own graph for programs that have neither.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from nin_edge_runtime.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray  # a tenth of NumPy's own import time, for names alone

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | IO[bytes] | Image.Image | NDArray[np.uint8]"
)
"""What `load_image` takes: a path, encoded bytes, a binary file, a PIL image, a uint8 array."""

MAX_PIXELS: Final = 100_000_000
"""Largest image that is decoded, in pixels: a small file can claim to be a huge one."""

DRAFT_SCALE: Final = 8
"""A JPEG may be decoded at a reduced scale that leaves this many pixels for one of the network's.

docs/results.md has what that does to the probabilities.
"""

IMAGE_SUFFIXES: Final = frozenset(
    f".{ending}"
    for ending in (
        *(
            "avif",
            "bmp",
            "dib",
            "gif",
            "heic",
            "heif",
            "jfif",
            "jp2",
            "jpe",
            "jpeg",
            "jpg",
            "pbm",
            "pcx",
            "pgm",
        ),
        *("png", "pnm", "ppm", "qoi", "tga", "tif", "tiff", "webp"),
    )
)
"""Endings, in lower case, of the files that count as images when a folder is read."""

# A picture is data: decoding it starts no program (Ghostscript) and calls no handler or driver.
_BY_OTHER_PROGRAMS: Final = ("EPS", "WMF", "BUFR", "GRIB", "HDF5")
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
_LYING: Final = (5, 6, 7, 8)  # stored with width and height exchanged


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
        max_pixels: largest image that is taken, in pixels.

    Returns:
        uint8 (H, W, 3), RGB; it may share memory with an array given.

    Raises:
        ImageError: the input cannot be read as an image; the message names it and says why.
    """
    if isinstance(source, np.ndarray):
        pixels = _checked_array(source, max_pixels)
        if pixels.shape[2] == 1:
            return np.repeat(pixels, 3, axis=2)
        return pixels[:, :, ::-1] if bgr else pixels
    return np.asarray(_open(source, bgr=bgr, max_pixels=max_pixels)[0])


def _open(
    source: ImageSource, *, bgr: bool, max_pixels: int, enough: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Any input but an array as an upright RGB image, and the (height, width) of its full size.

    A JPEG of which `enough` is given may come smaller, its shorter side at least that long.
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
            return _decode(image, _name(source), max_pixels, enough)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{_name(source)}: not an image in a format that Pillow reads") from None
    except Exception as error:  # a damaged file can surface as almost anything from the decoders
        raise ImageError(f"{_name(source)}: cannot be decoded ({_reason(error)})") from error


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
    """Side S of the network's input, in pixels."""
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
        if self.channels not in (1, 3):
            raise ValueError(f"preprocessing: {self.channels} channels, expected 1 or 3")
        if not 1 <= self.size <= 4096:
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
        draft: bool = False,
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Any input as the pixels that the network sees: `load_image`, then `resize`.

        Args:
            source: see `load_image`.
            bgr: see `load_image`.
            max_pixels: see `load_image`.
            draft: decode a large JPEG at a reduced scale, which is several times as fast and
                changes the result a little (`DRAFT_SCALE`).

        Returns:
            uint8 (S, S, C), and the (height, width) of the upright image in full size.

        Raises:
            ImageError: see `load_image`.
        """
        if isinstance(source, np.ndarray):
            pixels = _checked_array(source, max_pixels)
            height, width, _ = pixels.shape
            return self.resize(pixels, bgr=bgr), (height, width)
        enough = DRAFT_SCALE * self.size if draft else None
        image, size = _open(source, bgr=bgr, max_pixels=max_pixels, enough=enough)
        return self._resized(image.crop(center_crop_box(image.height, image.width))), size

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
        # Pillow's own `box` argument lets the filter reach outside the box, which the graph cannot:
        # crop first.
        left, top, right, bottom = center_crop_box(height, width)
        return self._resized(_from_array(pixels[top:bottom, left:right], bgr=bgr))

    def _resized(self, square: Image.Image) -> NDArray[np.uint8]:
        if self.channels == 1:
            square = square.convert("L")
        resized = square.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if self.channels == 3:
            resized = resized.convert("RGB")  # a grey array
        return np.asarray(resized).reshape(self.size, self.size, self.channels)

    def scale_and_shift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Normalisation as one multiplication and one addition per channel, each (C,) float32.

        `pixel * scale + shift` equals `(pixel / 255 - mean) / std`. PyTorch, NumPy and the exported
        graph all use these same numbers, so that their inputs are equal to the last bit but one.
        """
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized pixels, uint8 (N, S, S, C), to the network's input, float32 (N, C, S, S)."""
        scale, shift = self.scale_and_shift()
        return np.ascontiguousarray((pixels * scale + shift).transpose(0, 3, 1, 2))  # NHWC -> NCHW


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files given, and the image files below the folders given, sorted, without hidden ones.

    Raises:
        ImageError: a folder has no image files.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        )
        if not inside:
            raise ImageError(f"{path}: a folder with no image files (such as .jpg or .png) in it")
        found += inside
    return found


def _checked_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    """An array as (H, W, 3) or (H, W, 1), or the reason why it is no image."""
    pixels = array[:, :, np.newaxis] if array.ndim == 2 else array
    if array.dtype != np.uint8:
        expected = "uint8, 0 to 255 (scale floats yourself: only you know their range)"
    elif pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        expected = "(H, W, 3), (H, W, 1) or (H, W)"
    elif not pixels.size:
        expected = "at least one pixel"
    else:
        _check_pixels(pixels.shape[1], pixels.shape[0], "array", max_pixels)
        return pixels
    raise ImageError(f"array of {array.dtype} with shape {array.shape}: expected {expected}")


def _from_array(pixels: NDArray[np.uint8], *, bgr: bool) -> Image.Image:
    """A PIL image of an array (H, W, 3) or (H, W, 1), in one pass over it.

    Pillow's raw decoder takes rows that are part of longer ones, and BGR: a frame is cropped and
    its channels are swapped while it is copied.
    """
    height, width, channels = pixels.shape
    mode = "L" if channels == 1 else "RGB"
    row = pixels.strides[0]
    if pixels.strides[1:] != (channels, 1) or not width * channels <= row < 2**31:
        pixels, row = np.ascontiguousarray(pixels), width * channels
    flat = np.lib.stride_tricks.as_strided(
        pixels, (row * (height - 1) + width * channels,), (1,), writeable=False
    )
    raw = "BGR" if bgr and channels == 3 else mode
    return Image.frombuffer(mode, (width, height), flat, "raw", raw, row, 1)


def _decode(
    image: Image.Image, name: str, max_pixels: int, enough: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """The first frame of a PIL image as upright RGB, and its full (height, width)."""
    full = image.size
    _check_pixels(*full, name, max_pixels)
    if image.format in _BY_OTHER_PROGRAMS:
        raise ImageError(f"{name}: {image.format}, which Pillow has other programs decode")
    clear = _transparent(image)
    if enough is not None:
        image.draft(image.mode, (enough, enough))  # what is no JPEG stays as it is
    reduced = image.size != full
    image.load()
    orientation = _orientation(image)  # after load: Pillow turns TIFFs upright there
    if clear is not None:
        image = image.copy()  # the caller's own stays as it is
        image.info["transparency"] = clear
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{name}: {image.width} x {image.height} pixels, expected at least one")
    if image.mode.startswith("I"):
        image = _eight_bits(image, name)
    elif image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels, expected 8 or 16 bits a sample")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    width, height = (full[::-1] if orientation in _LYING else full) if reduced else image.size
    return image, (height, width)


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """A 16-bit grey image as 8 bits: the high byte, as Pillow itself takes of 16-bit colour."""
    samples = np.asarray(image)
    if samples.size and (samples.min() < 0 or samples.max() > 0xFFFF):
        raise ImageError(f"{name}: samples beyond 16 bits, expected 0 to 65535")
    grey = Image.fromarray((samples >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # one 16-bit grey that stands for "transparent"
        grey.putalpha(Image.fromarray(np.where(samples == clear, 0, 255).astype(np.uint8)))
    return grey


def _transparent(image: Image.Image) -> int | tuple[int, ...] | None:
    """The transparent colour of a PNG in the 8 bits that Pillow decodes its samples to.

    Pillow scales the samples of 2, 4 and 16 bits to 8, but leaves this colour as it is in the file.
    """
    clear = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    depth = tile[0][3] if tile else None
    if isinstance(clear, int) and depth in ("L;2", "L;4"):
        return clear * (85 if depth == "L;2" else 17)
    if isinstance(clear, tuple) and depth == "RGB;16B":
        return tuple(sample >> 8 for sample in clear)
    return None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; unreadable EXIF counts as none: the picture itself may be sound."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _check_pixels(width: int, height: int, name: str, most: int) -> None:
    if width * height > most:
        raise ImageError(f"{name}: {width} x {height} pixels, more than the {most:,} allowed")


def _require_file(path: str | os.PathLike[str]) -> None:
    """Say plainly what is wrong with a path, before a decoder says it obscurely."""
    try:
        found = Path(os.fsdecode(path))
        if not found.exists():
            raise ImageError(f"{_name(path)}: no such file")
        if found.is_dir():
            raise ImageError(f"{_name(path)}: a folder, expected an image file")
        if found.is_file() and not found.stat().st_size:
            raise ImageError(f"{_name(path)}: an empty file, expected an image")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{_name(path)}: {_reason(error)}") from error


def _name(source: object) -> str:
    """What to call an input in an error."""
    try:
        if isinstance(source, (str, os.PathLike)):
            return os.fsdecode(source)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return f"image of {len(source)} bytes"
    except Exception:  # a released view, a path that is none
        return type(source).__name__
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return name if isinstance(name, str) and name else type(source).__name__


def _reason(error: BaseException) -> str:
    """An error's own words on one line, or its type where it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__

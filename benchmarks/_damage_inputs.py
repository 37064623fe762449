"""The inputs of `benchmarks.damage`: whole images, and damaged images and models."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from PIL import Image, features

from nin_edge_runtime.golden import golden_image

PHOTO: Final = Path(__file__).parent.parent / "examples" / "cat.jpg"

Item: TypeAlias = tuple[str, bytes]
"""What an input is called, and its bytes."""

# Format, mode, name of the variant, options of Pillow's `save`.
_VARIANTS: Final[Sequence[tuple[str, str, str, Mapping[str, object]]]] = (
    ("JPEG", "RGB", "progressive", {"progressive": True}),
    ("JPEG", "L", "grey", {}),
    ("JPEG", "CMYK", "CMYK", {}),
    ("PNG", "RGB", "", {}),
    ("PNG", "P", "palette", {}),
    ("PNG", "RGBA", "alpha", {}),
    ("PNG", "I;16", "16 bits", {}),
    ("PNG", "RGB", "animated", {"save_all": True}),
    ("GIF", "P", "", {}),
    ("GIF", "P", "animated", {"save_all": True}),
    ("BMP", "RGB", "", {}),
    ("TIFF", "RGB", "", {}),
    ("TIFF", "RGB", "tiff_lzw", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", "tiff_adobe_deflate", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "RGB", "jpeg", {"compression": "jpeg"}),
    ("TIFF", "RGB", "packbits", {"compression": "packbits"}),
    ("TIFF", "1", "group4", {"compression": "group4"}),
    ("WEBP", "RGB", "", {}),
    ("WEBP", "RGBA", "lossless", {"lossless": True}),
    ("WEBP", "RGB", "animated", {"save_all": True}),
    ("AVIF", "RGB", "", {}),
    ("JPEG2000", "RGB", "", {}),
    ("ICO", "RGB", "", {}),
    ("ICNS", "RGB", "", {}),
    ("PPM", "RGB", "", {}),
    ("TGA", "RGB", "", {}),
    ("PCX", "RGB", "", {}),
    ("SGI", "RGB", "", {}),
    ("QOI", "RGB", "", {}),
    ("DDS", "RGB", "", {}),
    ("IM", "RGB", "", {}),
)
_OPTIONAL: Final = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}


def whole_images() -> Iterator[Item]:
    """The photo and a drawn picture in every format and variant that Pillow writes here."""
    with Image.open(PHOTO) as opened:
        photo = opened.convert("RGB")
    yield "JPEG", PHOTO.read_bytes()
    supported = features.get_supported()
    missing = {name for name, feature in _OPTIONAL.items() if feature not in supported}
    Image.init()
    for image_format, mode, variant, options in _VARIANTS:
        if image_format in missing or image_format not in Image.SAVE:
            continue
        for picture in (photo.resize((150, 100)), Image.fromarray(golden_image(5, 64, 96))):
            image, given = _converted(picture, mode), dict(options)
            if "save_all" in given:
                given["append_images"] = [image.transpose(Image.Transpose.ROTATE_180)]
            buffer = io.BytesIO()
            image.save(buffer, image_format, **given)
            yield f"{image_format} {variant}".strip(), buffer.getvalue()


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.quantize(64) if mode == "P" else image.convert(mode)


def damaged(whole: Sequence[Item], count: int, rng: np.random.Generator) -> list[Item]:
    """Files cut short and files with 1 to 16 flipped bits, in turn, made from whole ones in turn.

    Half of the flipped ones have all flips in their first 512 bytes, where the headers are.

    Args:
        whole: names and bytes of whole files.
        count: how many to make.
        rng: decides where.
    """
    items = []
    for index in range(count):
        name, data = whole[index // 2 % len(whole)]
        if index % 2 == 0:
            items.append((f"{name}, cut", data[: rng.integers(0, len(data))]))
            continue
        end = min(len(data), 512) if rng.integers(2) else len(data)
        broken = bytearray(data)
        for _ in range(rng.integers(1, 17)):
            broken[rng.integers(0, end)] ^= 1 << int(rng.integers(8))
        items.append((f"{name}, flipped", bytes(broken)))
    return items


def archived(archive: Path, suffix: str) -> Iterator[Item]:
    """The files of an archive with a suffix, by name."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(suffix) and (file := tar.extractfile(member)):
                yield Path(member.name).stem, file.read()

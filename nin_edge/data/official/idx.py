"""MNIST and Fashion-MNIST as idx files.

An idx file is two zeros, 8 for bytes, the number of dimensions, the dimensions, the bytes; it may
be packed by gzip.
"""

from __future__ import annotations

import gzip
import io
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nin_edge.data.archives import MAX_MEMBER
from nin_edge.data.official.files import (
    FileSet,
    OfficialData,
    OfficialFiles,
    Part,
    checked_targets,
)

_MAX_IMAGES: Final = 100_000  # in a file; MNIST has 60,000

_LABELS: Final = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


def read_idx(official: str, file_set: FileSet, files: OfficialFiles) -> OfficialData:
    """Read the idx files.

    Raises:
        DatasetError: a file is damaged; the message names it.
    """
    labels = _LABELS[official]
    parts = []
    for split, (images_name, labels_name) in (("train", file_set.train), ("test", file_set.test)):
        with files.taken(images_name) as data:
            pixels = _read_array(data, dimensions=3)
            if not pixels.size:
                raise ValueError(f"images of shape {pixels.shape}, expected some with pixels")
        with files.taken(labels_name) as data:
            numbers = _read_array(data, dimensions=1)
            if len(numbers) != len(pixels):
                raise ValueError(
                    f"{len(numbers):,} labels, but {len(pixels):,} images in {images_name}"
                )
            targets = checked_targets(numbers, len(labels))
        parts.append(Part(split, pixels[..., np.newaxis], targets))
    return OfficialData(labels, tuple(parts))


def _read_array(data: bytes, dimensions: int) -> NDArray[np.uint8]:
    """The array of an idx file."""
    packed = data.startswith(b"\x1f\x8b")
    file: Any = gzip.GzipFile(fileobj=io.BytesIO(data)) if packed else io.BytesIO(data)
    magic, expected = file.read(4), bytes([0, 0, 8, dimensions])
    if magic != expected:
        raise ValueError(f"magic number 0x{magic.hex()}, expected 0x{expected.hex()}")
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise ValueError("truncated in its header")
    shape = [int(side) for side in np.frombuffer(header, ">u4")]
    count = math.prod(shape)
    if count > MAX_MEMBER:
        raise ValueError(f"claims the shape {tuple(shape)}, more than {MAX_MEMBER:,} bytes")
    if shape[0] > _MAX_IMAGES:
        raise ValueError(f"claims {shape[0]:,} images, expected at most {_MAX_IMAGES:,}")
    values = file.read(count + 1)  # one more: gzip verifies its checksum only behind the last byte
    if len(values) != count:
        length = "more" if len(values) > count else f"{len(values):,}"
        raise ValueError(f"expected {count:,} bytes for {tuple(shape)}, found {length}")
    return np.frombuffer(values, np.uint8).reshape(shape)

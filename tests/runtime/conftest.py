"""What the runtime's tests share: forged model files, encoded images, and child processes."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from nin_edge_runtime import Classifier
from nin_edge_runtime.model_file.read import file_sha256, find_sha256

_GRAPH, _METADATA = 7, 14  # field numbers of ModelProto in onnx.proto
_LENGTH_DELIMITED = 2
_PNG_COLOUR_TYPES: Final = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels

_ORIENTATION_TAG: Final = 0x0112
# How a camera stores an upright scene under each EXIF orientation.
_STORED: Final[Mapping[int, Callable[[np.ndarray], np.ndarray]]] = {
    1: lambda scene: scene,
    2: np.fliplr,
    3: lambda scene: np.rot90(scene, 2),
    4: np.flipud,
    5: lambda scene: scene.swapaxes(0, 1),
    6: np.rot90,
    7: lambda scene: np.rot90(scene, 2).swapaxes(0, 1),
    8: lambda scene: np.rot90(scene, -1),
}


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, whole encoding and payload of each field; all are whole numbers or bytes."""
    position = 0
    while position < len(data):
        begin = position
        tag, position = _read_varint(data, position)
        value, start = _read_varint(data, position)
        position = start + value if tag & 7 == _LENGTH_DELIMITED else start
        yield tag >> 3, data[begin:position], data[start:position]


def _entry(key: str, value: str) -> bytes:
    return _field(_METADATA, _field(1, key.encode()) + _field(2, value.encode()))


@pytest.fixture(scope="session")
def onnx_file() -> Callable[..., bytes]:
    """Encode a ModelProto of a graph (its bytes) and metadata."""

    def encode(graph: bytes, metadata: Mapping[str, str]) -> bytes:
        entries = b"".join(_entry(key, value) for key, value in metadata.items())
        return b"\x08\x08" + _field(_GRAPH, graph) + entries

    return encode


@pytest.fixture(scope="session")
def forge() -> Callable[..., bytes]:
    """Change the metadata of a model file as a forger would: its SHA-256 fits again."""

    def change(
        data: bytes,
        metadata: Mapping[str, str | None] | None = None,
        *,
        twice: str | None = None,
        graph: bytes | None = None,
    ) -> bytes:
        parts, found = [], {}
        for number, whole, payload in _fields(data):
            if number == _METADATA:
                key, value = (text.decode() for _, _, text in _fields(payload))
                found[key] = value
            elif number == _GRAPH and graph is not None:
                parts.append(_field(_GRAPH, graph))
            else:
                parts.append(whole)
        found |= {f"nin_edge.{key}": value for key, value in (metadata or {}).items()}
        if found["nin_edge.sha256"] is not None:
            found["nin_edge.sha256"] = f'"{"0" * 64}"'
        parts += [_entry(key, value) for key, value in found.items() if value is not None]
        if twice is not None:
            parts.append(_entry(f"nin_edge.{twice}", found[f"nin_edge.{twice}"]))
            return b"".join(parts)
        forged = b"".join(parts)
        digits = find_sha256(forged)
        if digits is None:
            return forged
        digest = file_sha256(forged, digits).encode()
        return forged[: digits.start] + digest + forged[digits.stop :]

    return change


@pytest.fixture(scope="session")
def tiny_bytes(tiny_model: Path) -> bytes:
    return tiny_model.read_bytes()


@pytest.fixture(scope="session")
def classify(tiny_model: Path) -> Classifier:
    return Classifier(tiny_model, provider="cpu", threads=1)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Encode a PIL image or an array with Pillow."""

    def to_bytes(
        image: Image.Image | np.ndarray, file_format: str = "PNG", **options: object
    ) -> bytes:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(np.ascontiguousarray(image))
        buffer = io.BytesIO()
        image.save(buffer, file_format, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture(scope="session")
def photograph(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    """Encode an upright scene as a camera stores it under an EXIF orientation."""

    def to_bytes(
        scene: np.ndarray, orientation: int, file_format: str = "PNG", **options: object
    ) -> bytes:
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = orientation
        return encode(_STORED[orientation](scene), file_format, exif=exif, **options)

    return to_bytes


@pytest.fixture(scope="session")
def archived(data_dir: Path) -> Callable[[str], dict[str, bytes]]:
    """Read the images of a test archive, by their names without endings, or skip the test."""

    @cache
    def read(name: str) -> dict[str, bytes]:
        if not (data_dir / name).is_file():
            pytest.skip(f"no {data_dir / name}")
        images = {}
        with tarfile.open(data_dir / name) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and member.name.endswith((".png", ".jpg")):
                    images[Path(member.name).stem] = file.read()
        return images

    return read


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """A smooth picture without any symmetry, 24 x 40."""
    ramp_y, ramp_x = np.mgrid[0:24, 0:40]
    return np.stack([ramp_y * 10, ramp_x * 6, (ramp_y + ramp_x) * 3], axis=2).astype(np.uint8)


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    """Encode a PNG by hand, of any bit depth, with the one colour that counts as transparent."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    def encode(
        samples: np.ndarray, depth: int, clear: tuple[int, ...] = (), size: tuple[int, int] = (0, 0)
    ) -> bytes:
        """Samples (H, W) or (H, W, 2 to 4); `size` is the (width, height) claimed if not real."""
        height, width = samples.shape[:2]
        colour = _PNG_COLOUR_TYPES[samples.shape[2] if samples.ndim == 3 else 1]
        shifts = np.arange(depth - 1, -1, -1)
        bits = (samples.reshape(height, -1, 1).astype(np.int64) >> shifts & 1).astype(np.uint8)
        rows = np.packbits(bits.reshape(height, -1), axis=1)
        claimed = size if any(size) else (width, height)
        transparent = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b""
        return b"".join(
            [
                b"\x89PNG\r\n\x1a\n",
                chunk(b"IHDR", struct.pack(">IIBBBBB", *claimed, depth, colour, 0, 0, 0)),
                transparent,
                chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
                chunk(b"IEND", b""),
            ]
        )

    return encode


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in a process of its own."""

    def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *map(os.fspath, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run

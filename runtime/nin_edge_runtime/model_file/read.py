"""Reading a model file: whole, unchanged since its export, and safe to run.

A model file may come from anyone. It is read here as bytes, before ONNX Runtime sees it: a short
walk over the outermost protobuf fields finds the metadata, the file's own SHA-256 shows whether
anything changed since its export, and `graph_check` whether export could have written the graph.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Final

from nin_edge_runtime.errors import ModelFileError
from nin_edge_runtime.model_file import strict_json
from nin_edge_runtime.model_file.graph_check import check_model
from nin_edge_runtime.model_file.info import FORMAT_VERSION, PREFIX, ModelInfo
from nin_edge_runtime.model_file.parse import parse_info
from nin_edge_runtime.model_file.protobuf import Schema, fields, message, tag

_MAX_BYTES: Final = 2**31 - 1  # protobuf's own limit for one message
_MAX_METADATA: Final = 16_000_000  # bytes: a thousand classes take 200,000

# Of all keys that start with `nin_edge.`; others are of later releases, and ignored.
_KEYS: Final = (
    *("format_version", "sha256", "labels", "preprocessing", "precision", "temperature"),
    *("architecture", "parameters", "multiply_adds", "data", "versions", "certificate", "golden"),
    "engines",
)

# Fields of ONNX's ModelProto and StringStringEntryProto (onnx.proto).
_GRAPH, _METADATA = tag(7), tag(14)
ENTRY: Final[Schema] = {tag(1): ("key", False), tag(2): ("value", False)}


def read_model(source: str | os.PathLike[str] | bytes) -> tuple[bytes, ModelInfo]:
    """Read a model file, check that it is whole and from `nin-edge export`, and parse its metadata.

    Args:
        source: path of an `.onnx` file from `nin-edge export`, or its bytes.

    Returns:
        The file's bytes and its metadata.

    Raises:
        ModelFileError: missing, foreign, damaged, altered, or of a newer format; the message says
            which.
    """
    name = model_name(source)
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    if len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        raise ModelFileError(
            f"{name}: a checkpoint (safetensors), expected an .onnx model; "
            "`nin-edge export` makes one of it"
        )
    try:
        properties, digits = _metadata(data)
    except ValueError as error:
        raise ModelFileError(f"{name}: not an ONNX model, or a truncated one ({error})") from None
    values = _parse_values(name, properties)
    if digits is None or values["sha256"] != file_sha256(data, digits):
        raise ModelFileError(
            f"{name}: damaged or altered since its export: "
            "its SHA-256 is not the one it carries; copy or export it again"
        )
    info = _parse_info(name, values)
    try:
        check_model(
            data,
            classes=len(info.labels),
            size=info.preprocessing.size,
            channels=info.preprocessing.channels,
            embedded=info.embedded,
        )
    except ValueError as error:
        raise ModelFileError(
            f"{name}: a graph that nin-edge does not export, refused before it is run: {error}"
        ) from None
    return data, info


def model_name(source: str | os.PathLike[str] | bytes) -> str:
    """What messages call a model: its path, or its size where it comes as bytes."""
    return f"model of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)


def file_sha256(data: bytes, digits: slice) -> str:
    """SHA-256, in hexadecimal, of a model file with its own 64 digits, at `digits`, as zeros."""
    digest = hashlib.sha256(memoryview(data)[: digits.start])
    digest.update(b"0" * 64)
    digest.update(memoryview(data)[digits.stop :])
    return digest.hexdigest()


def find_sha256(data: bytes) -> slice | None:
    """Position of the 64 hexadecimal digits of `nin_edge.sha256`; None if there are none.

    Raises:
        ValueError: not a protobuf message.
    """
    return _metadata(data)[1]


def _read_file(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelFileError(f"{path}: a folder, expected an .onnx model")
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(f"{path}: a device, pipe or socket, expected an .onnx file")
        if not 0 < size <= _MAX_BYTES:
            raise ModelFileError(
                f"{path}: {f'{size:,} bytes' if size else 'an empty file'}, expected an .onnx model"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file, expected an .onnx model") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path}: cannot be read ({error})") from error


def _metadata(data: bytes) -> tuple[dict[str, str], slice | None]:
    """All metadata of a ModelProto, and the position of its SHA-256's digits."""
    properties: dict[str, str] = {}
    digits, has_graph, size = None, False, 0
    for key, start, stop in fields(data, 0, len(data)):
        has_graph |= key == _GRAPH
        if key != _METADATA:
            continue
        size += stop - start
        if size > _MAX_METADATA:
            raise ValueError(f"more than {_MAX_METADATA:,} bytes of metadata")
        entry = message(data, (start, stop), ENTRY, "a metadata entry")
        name, value = (
            data[slice(*entry.get(part, (0, 0)))].decode("utf-8") for part in ("key", "value")
        )
        if name in properties:
            raise ValueError(f"metadata key {name[:80]!r} twice")
        properties[name] = value
        if name == PREFIX + "sha256" and len(value) == 66:  # the digits and JSON's quotation marks
            first, last = entry["value"]
            digits = slice(first + 1, last - 1)
    if not has_graph:
        raise ValueError("it holds no graph")
    return properties, digits


def _parse_values(name: str, properties: dict[str, str]) -> dict[str, Any]:
    """The JSON values of nin-edge's keys, of a format that this release reads."""
    if PREFIX + "format_version" not in properties:
        raise ModelFileError(
            f"{name}: an ONNX model without nin-edge's metadata, "
            "expected one from `nin-edge export`"
        )
    values: dict[str, Any] = {}
    try:
        for key in _KEYS:
            text = properties.get(PREFIX + key)
            if text is None:
                continue  # a missing key is named later
            if len(text) > (longest := _longest(key, values.get("labels"))):
                raise ValueError(f"{key}: {len(text):,} characters, expected at most {longest:,}")
            values[key] = strict_json.loads(text)
        version = values["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(
                f"format version {strict_json.shown(version)}, expected a positive integer"
            )
    except ValueError as error:
        raise ModelFileError(f"{name}: damaged metadata: {strict_json.shortened(error)}") from None
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{name}: model format {version}, "
            f"this nin-edge-runtime reads up to {FORMAT_VERSION}: update it"
        )
    return values


def _longest(key: str, labels: object) -> int:
    """Most characters of a key's value; memory and time to parse it are 30 times that."""
    if key == "labels":
        return 4_000_000  # 60 each where there are 65,536
    if key == "golden":  # two rows of probabilities for each image
        return 1000 * (10 + len(labels) if isinstance(labels, list) else 10)
    return 1_000_000


def _parse_info(name: str, values: dict[str, Any]) -> ModelInfo:
    try:
        return parse_info(values)
    except KeyError as error:
        raise ModelFileError(
            f"{name}: damaged metadata: the key {PREFIX}{error.args[0]} is missing"
        ) from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{name}: damaged metadata: {strict_json.shortened(error)}") from None

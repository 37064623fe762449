"""What a model file says of itself: its `nin_edge.*` metadata, typed and checked.

A model file is data from a stranger. It is read here as bytes, before ONNX Runtime sees it: a short
walk over the outermost protobuf fields finds the metadata, the file's own SHA-256 shows whether
anything changed since export, and `graphcheck` whether the graph is one that export writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nin_edge_runtime.errors import ModelFileError
from nin_edge_runtime.golden import FORMULA
from nin_edge_runtime.model_file.graph_check import MAX_SIDE, check_model
from nin_edge_runtime.model_file.protobuf import Schema, fields, message, tag
from nin_edge_runtime.preprocessing import Preprocessing

FORMAT_VERSION: Final = 1
"""Newest format of the metadata that this release reads; it reads all older ones too."""

PREFIX: Final = "nin_edge."
"""What all keys of ours begin with."""

EMBEDDED: Final = ("full", "normalize", "none")
"""Which steps of preprocessing the graph itself does: all, normalisation alone, or none."""

PRECISIONS: Final = ("fp32", "fp16", "int8")

_MAX_BYTES: Final = 2**31 - 1  # protobuf's own limit for one message
_MAX_METADATA: Final = 16_000_000  # bytes: a thousand classes take 200,000
_MAX_LABELS: Final = 65_536
_MAX_LABEL: Final = 1000  # characters; a folder's name, which most are, has at most 255 bytes
_MIN_SIDE: Final = 16
_MAX_GOLDEN: Final = 64
_MAX_DIGITS: Final = 20  # of a whole number in JSON: the longest that 64 bits hold
# Of ONNX's ModelProto and StringStringEntryProto (onnx.proto).
_GRAPH, _METADATA = tag(7), tag(14)
ENTRY: Final[Schema] = {tag(1): ("key", False), tag(2): ("value", False)}


@dataclass(frozen=True)
class GoldenSamples:
    """Synthetic images and the probabilities they gave when the file was made (`golden.py`)."""

    formula: int
    """Which formula draws the images."""
    images: tuple[tuple[int, int, int], ...]
    """(seed, height, width) of each image."""
    pytorch: tuple[tuple[float, ...], ...]
    """Each image's probabilities (K,) from the PyTorch network, in fp32."""
    file: tuple[tuple[float, ...], ...]
    """Each image's probabilities (K,) from this very file on the exporting machine."""


@dataclass(frozen=True)
class ModelInfo:
    """Everything a model file says of itself."""

    format_version: int
    """Version of the metadata's format."""
    labels: tuple[str, ...]
    """Name of each class, in the order of the outputs."""
    preprocessing: Preprocessing
    """How images become the network's input."""
    embedded: str
    """Which of those steps the graph does itself: one of `EMBEDDED`."""
    precision: str
    """One of `PRECISIONS`."""
    temperature: float
    """Divisor of the logits that is folded into the graph; 1 if it was not fitted."""
    architecture: Mapping[str, Any]
    """The network's configuration: preset, width, blocks."""
    parameters: int
    """Trained parameters of the network."""
    multiply_adds: int
    """Multiply-adds of one image's convolutions."""
    data: Mapping[str, Any]
    """Name and licence note of the data set it was trained on."""
    versions: Mapping[str, str]
    """Libraries and processor that made the file."""
    certificate: Mapping[str, Any]
    """What was measured of the file, and what was not."""
    golden: GoldenSamples
    """Samples that `nin-edge verify` replays."""
    sha256: str
    """Of the whole file, with these 64 digits as zeros."""


def read_model(source: str | os.PathLike[str] | bytes) -> tuple[bytes, ModelInfo]:
    """Read a model file, check that it is whole and ours, and parse its metadata.

    Args:
        source: path of an `.onnx` file from `nin-edge export`, or its bytes.

    Returns:
        The file's bytes, and what they say of themselves.

    Raises:
        ModelFileError: missing, foreign, damaged, altered, or of a newer format; the message says
            which.
    """
    if isinstance(source, bytes):
        name, data = f"model of {len(source)} bytes", source
    else:
        name, data = os.fspath(source), _read_file(Path(source))
    if len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        raise ModelFileError(
            f"{name}: a checkpoint (safetensors), expected an .onnx model; "
            "`nin-edge export` makes one of it"
        )
    try:
        properties, digits = _metadata(data)
    except ValueError as error:
        raise ModelFileError(f"{name}: not an ONNX model, or a truncated one ({error})") from None
    version_key = PREFIX + "format_version"
    if version_key not in properties:
        raise ModelFileError(
            f"{name}: an ONNX model without nin-edge's metadata, "
            "expected one from `nin-edge export`"
        )
    try:
        values = {
            key.removeprefix(PREFIX): _json(text)
            for key, text in properties.items()
            if key.startswith(PREFIX)
        }
        version = values["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format version {version!r}, expected a positive integer")
    except ValueError as error:
        raise ModelFileError(f"{name}: damaged metadata: {_shortened(error)}") from None
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{name}: model format {version}, "
            f"this nin-edge-runtime reads up to {FORMAT_VERSION}: update it"
        )
    if digits is None or values["sha256"] != file_sha256(data, digits):
        raise ModelFileError(
            f"{name}: damaged or altered since its export: "
            "its SHA-256 is not the one it carries; copy or export it again"
        )
    try:
        info = _parse(values)
    except KeyError as error:
        raise ModelFileError(
            f"{name}: damaged metadata: the key {PREFIX}{error.args[0]} is missing"
        ) from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{name}: damaged metadata: {_shortened(error)}") from None
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


def file_sha256(data: bytes, digits: slice) -> str:
    """SHA-256, in hexadecimal, of a model file with its own 64 digits, at `digits`, as zeros."""
    digest = hashlib.sha256(memoryview(data)[: digits.start])
    digest.update(b"0" * 64)
    digest.update(memoryview(data)[digits.stop :])
    return digest.hexdigest()


def find_sha256(data: bytes) -> slice | None:
    """Where a model file's 64 hexadecimal digits of `nin_edge.sha256` lie, or None if it has none.

    Raises:
        ValueError: not a protobuf message.
    """
    return _metadata(data)[1]


def _read_file(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelFileError(f"{path}: a folder, expected an .onnx model")
        size = path.stat().st_size
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
    """All metadata of a ModelProto, and where the digits of its SHA-256 lie."""
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


def _shortened(error: Exception) -> str:
    """An error's text on one line; one that quotes the file could be as long as the file."""
    words = " ".join(str(error).split())
    return words if len(words) <= 300 else f"{words[:300]}..."


def _json(text: str) -> Any:
    """Strict JSON: the standard library's reader also takes NaN, Infinity and halves of characters.

    And, in Python before 3.10.7, numbers of any length, in time that grows with its square.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def whole(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise ValueError(f"a whole number of {len(digits)} digits")
        return int(digits)

    try:
        value = json.loads(text, parse_constant=refuse, parse_int=whole)
        if "\\u" in text:  # a lone surrogate, which nothing can print
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    return value


def _parse(values: Mapping[str, Any]) -> ModelInfo:
    """The typed metadata; a built-in error where it is not as agreed."""
    labels = tuple(_list(values["labels"]))
    if (
        len(labels) < 2
        or not all(isinstance(label, str) for label in labels)
        or len(set(labels)) != len(labels)
    ):
        raise ValueError("expected at least two different labels")
    if len(labels) > _MAX_LABELS or max(map(len, labels)) > _MAX_LABEL:
        raise ValueError(
            f"{len(labels)} labels of up to {max(map(len, labels))} characters, "
            f"expected at most {_MAX_LABELS:,} of at most {_MAX_LABEL:,}"
        )
    steps = values["preprocessing"]
    preprocessing = Preprocessing(
        size=_integer(steps["size"]),
        channels=_integer(steps["channels"]),
        mean=tuple(map(_number, steps["mean"])),
        std=tuple(map(_number, steps["std"])),
    )
    if not _MIN_SIDE <= preprocessing.size <= MAX_SIDE:
        raise ValueError(
            f"input size {preprocessing.size}, expected {_MIN_SIDE} to {MAX_SIDE} pixels"
        )
    if steps["embedded"] not in EMBEDDED:
        raise ValueError(
            f"embedded preprocessing {steps['embedded']!r}, expected one of {', '.join(EMBEDDED)}"
        )
    if values["precision"] not in PRECISIONS:
        raise ValueError(
            f"precision {values['precision']!r}, expected one of {', '.join(PRECISIONS)}"
        )
    temperature = _number(values["temperature"])
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature {temperature}, expected a positive number")
    for key in ("architecture", "data", "versions", "certificate"):
        if not isinstance(values[key], dict):
            raise ValueError(f"{PREFIX}{key}: expected an object")
    return ModelInfo(
        format_version=values["format_version"],
        labels=labels,
        preprocessing=preprocessing,
        embedded=steps["embedded"],
        precision=values["precision"],
        temperature=temperature,
        architecture=values["architecture"],
        parameters=_integer(values["parameters"]),
        multiply_adds=_integer(values["multiply_adds"]),
        data=values["data"],
        versions=values["versions"],
        certificate=values["certificate"],
        golden=_parse_golden(values["golden"], len(labels)),
        sha256=values["sha256"],
    )


def _parse_golden(value: Mapping[str, Any], classes: int) -> GoldenSamples:
    images = tuple(
        (_integer(seed), _integer(height), _integer(width))
        for seed, height, width in value["images"]
    )
    if not 1 <= len(images) <= _MAX_GOLDEN:
        raise ValueError(f"golden samples: {len(images)}, expected 1 to {_MAX_GOLDEN} images")
    if not all(0 <= seed < 2**31 and 1 <= min(size) <= max(size) <= 4096 for seed, *size in images):
        raise ValueError("golden samples: expected seeds of 31 bits and sizes of 1 to 4096 pixels")
    if _integer(value["formula"]) != FORMULA:
        raise ValueError(
            f"golden samples: formula {value['formula']}, this release knows {FORMULA}"
        )
    pytorch, file = (
        tuple(tuple(map(_number, row)) for row in value[key]) for key in ("pytorch", "file")
    )
    if any(
        len(rows) != len(images) or any(len(row) != classes for row in rows)
        for rows in (pytorch, file)
    ):
        raise ValueError(
            f"golden samples: expected {classes} probabilities for each of {len(images)} images"
        )
    return GoldenSamples(value["formula"], images, pytorch, file)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r}, expected a list")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r}, expected a number")
    return float(value)


def _integer(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r}, expected a whole number")
    return value

"""A model file's metadata, JSON by key, as a `ModelInfo`; every value is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nin_edge_runtime.golden import FORMULA
from nin_edge_runtime.model_file.certificate import Certificate
from nin_edge_runtime.model_file.graph_check import MAX_SIDE
from nin_edge_runtime.model_file.info import (
    EMBEDDED,
    PRECISIONS,
    PREFIX,
    GoldenSamples,
    ModelInfo,
)
from nin_edge_runtime.model_file.strict_json import JsonObject, array, integer, number
from nin_edge_runtime.preprocessing import Preprocessing

_MAX_LABELS: Final = 65_536
_MAX_LABEL: Final = 1000  # characters; most are names of folders, which have at most 255 bytes
_MIN_SIDE: Final = 16
_MAX_GOLDEN: Final = 64
_MAX_GOLDEN_SIDE: Final = 4096  # pixels


def parse_info(values: Mapping[str, Any]) -> ModelInfo:
    """The metadata, typed.

    Args:
        values: parsed JSON by key, without the prefix `nin_edge.`; unknown keys are ignored.

    Raises:
        KeyError: a key is missing.
        TypeError, ValueError, OverflowError: a value is not of its form.
    """
    labels = _parse_labels(values["labels"])
    preprocessing, embedded = _parse_preprocessing(values["preprocessing"])
    if values["precision"] not in PRECISIONS:
        raise ValueError(
            f"precision {values['precision']!r}, expected one of {', '.join(PRECISIONS)}"
        )
    temperature = number(values["temperature"])
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}, expected a positive number")
    for key in ("architecture", "data", "versions"):
        if not isinstance(values[key], dict):
            raise ValueError(f"{PREFIX}{key}: expected an object")
    return ModelInfo(
        format_version=values["format_version"],
        labels=labels,
        preprocessing=preprocessing,
        embedded=embedded,
        precision=values["precision"],
        temperature=temperature,
        architecture=values["architecture"],
        parameters=integer(values["parameters"]),
        multiply_adds=integer(values["multiply_adds"]),
        data=values["data"],
        versions=values["versions"],
        certificate=Certificate.from_json(values["certificate"]),
        golden=_parse_golden(JsonObject("golden samples", values["golden"]), len(labels)),
        sha256=values["sha256"],
    )


def _parse_labels(value: object) -> tuple[str, ...]:
    labels = tuple(array(value))
    if (
        len(labels) < 2
        or not all(isinstance(label, str) for label in labels)
        or len(set(labels)) != len(labels)
    ):
        raise ValueError("expected at least two different labels")
    longest = max(map(len, labels))
    if len(labels) > _MAX_LABELS or longest > _MAX_LABEL:
        raise ValueError(
            f"{len(labels)} labels of up to {longest} characters, "
            f"expected at most {_MAX_LABELS:,} of at most {_MAX_LABEL:,}"
        )
    return labels


def _parse_preprocessing(value: object) -> tuple[Preprocessing, str]:
    """The preprocessing, and which of its steps the graph does."""
    steps = JsonObject("preprocessing", value)
    preprocessing = Preprocessing(
        size=steps.integer("size"),
        channels=steps.integer("channels"),
        mean=tuple(map(number, steps.array("mean"))),
        std=tuple(map(number, steps.array("std"))),
    )
    if not _MIN_SIDE <= preprocessing.size <= MAX_SIDE:
        raise ValueError(
            f"input size {preprocessing.size}, expected {_MIN_SIDE} to {MAX_SIDE} pixels"
        )
    embedded = steps.get("embedded")
    if embedded not in EMBEDDED:
        raise ValueError(
            f"embedded preprocessing {embedded!r}, expected one of {', '.join(EMBEDDED)}"
        )
    return preprocessing, embedded


def _parse_golden(golden: JsonObject, classes: int) -> GoldenSamples:
    images = tuple(
        (integer(seed), integer(height), integer(width))
        for seed, height, width in golden.array("images")
    )
    if not 1 <= len(images) <= _MAX_GOLDEN:
        raise ValueError(f"golden samples: {len(images)}, expected 1 to {_MAX_GOLDEN} images")
    if not all(
        0 <= seed < 2**31 and 1 <= min(sides) <= max(sides) <= _MAX_GOLDEN_SIDE
        for seed, *sides in images
    ):
        raise ValueError(
            f"golden samples: expected seeds of 31 bits and sizes of 1 to {_MAX_GOLDEN_SIDE} pixels"
        )
    formula = golden.integer("formula")
    if formula != FORMULA:
        raise ValueError(f"golden samples: formula {formula}, this release knows {FORMULA}")
    pytorch, file = (
        tuple(tuple(map(number, array(row))) for row in golden.array(key))
        for key in ("pytorch", "file")
    )
    if any(
        len(rows) != len(images) or any(len(row) != classes for row in rows)
        for rows in (pytorch, file)
    ):
        raise ValueError(
            f"golden samples: expected {classes} probabilities for each of {len(images)} images"
        )
    return GoldenSamples(formula, images, pytorch, file)

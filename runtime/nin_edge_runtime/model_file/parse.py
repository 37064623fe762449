"""A model file's metadata, JSON by key, as a `ModelInfo`; every value is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from nin_edge_runtime.golden import FORMULA
from nin_edge_runtime.model_file.certificate import Certificate
from nin_edge_runtime.model_file.info import (
    EMBEDDED,
    PRECISIONS,
    GoldenSamples,
    ModelInfo,
)
from nin_edge_runtime.model_file.limits import (
    MAX_CLASSES,
    MAX_GOLDEN,
    MAX_GOLDEN_SCALE,
    MAX_LABEL,
    MAX_SIDE,
    MIN_SIDE,
)
from nin_edge_runtime.model_file.strict_json import (
    JsonObject,
    array,
    boolean,
    integer,
    number,
    plain,
    shown,
    string,
)
from nin_edge_runtime.preprocessing import Preprocessing

_MAX_DEPTH: Final = 3  # of lists and objects within the parts of the metadata for people


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
            f"precision {shown(values['precision'])}, expected one of {', '.join(PRECISIONS)}"
        )
    temperature = number(values["temperature"])
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}, expected a positive number")
    return ModelInfo(
        format_version=values["format_version"],
        labels=labels,
        preprocessing=preprocessing,
        embedded=embedded,
        precision=values["precision"],
        temperature=temperature,
        architecture=_parse_architecture(values["architecture"]),
        parameters=integer(values["parameters"]),
        multiply_adds=integer(values["multiply_adds"]),
        data=_parse_strings("data", values["data"], ("name", "licence", "fingerprint")),
        versions=_parse_strings("versions", values["versions"]),
        certificate=Certificate.from_json(values["certificate"]),
        golden=_parse_golden(
            JsonObject("golden samples", values["golden"]), len(labels), preprocessing.size
        ),
        engines=_parse_engines(values["engines"]) if "engines" in values else None,
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
    if len(labels) > MAX_CLASSES or longest > MAX_LABEL:
        raise ValueError(
            f"{len(labels)} labels of up to {longest} characters, "
            f"expected at most {MAX_CLASSES:,} of at most {MAX_LABEL:,}"
        )
    return labels


def _parse_engines(value: object) -> tuple[str, ...]:
    return tuple(map(string, array(value)))


def _parse_preprocessing(value: object) -> tuple[Preprocessing, str]:
    """The preprocessing, and which of its steps the graph does."""
    steps = JsonObject("preprocessing", value)
    preprocessing = Preprocessing(
        size=steps.integer("size"),
        channels=steps.integer("channels"),
        mean=tuple(map(number, steps.array("mean"))),
        std=tuple(map(number, steps.array("std"))),
    )
    if not MIN_SIDE <= preprocessing.size <= MAX_SIDE:
        raise ValueError(
            f"input size {preprocessing.size}, expected {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    embedded = steps.get("embedded")
    if embedded not in EMBEDDED:
        raise ValueError(
            f"embedded preprocessing {shown(embedded)}, expected one of {', '.join(EMBEDDED)}"
        )
    return preprocessing, embedded


def _parse_architecture(value: object) -> Mapping[str, Any]:
    """The network's configuration: fields that are known have their type, others are plain."""
    fields = JsonObject("architecture", value)
    plain(fields.all(), _MAX_DEPTH)
    for key, check in _ARCHITECTURE.items():
        fields.optional(key, check)
    return fields.all()


def _filled_list(check: Callable[[object], object]) -> Callable[[object], object]:
    """A check of a list that is not empty, by the check of an item."""

    def checked(value: object) -> list[Any]:
        items = array(value)
        if not items:
            raise ValueError("an empty list, expected values")
        return [check(item) for item in items]

    return checked


_ARCHITECTURE: Final[Mapping[str, Callable[[object], object]]] = {
    **dict.fromkeys(("preset", "block", "head"), string),
    **dict.fromkeys(("classes", "channels", "size", "stride"), integer),
    **dict.fromkeys(("width", "dropout", "head_dropout"), number),
    **dict.fromkeys(("batch_norm", "last_relu"), boolean),
    "blocks": _filled_list(_filled_list(integer)),
    "kernels": _filled_list(integer),
    "pools": lambda value: [string(item) for item in array(value)],
}


def _parse_strings(name: str, value: object, keys: Iterable[str] = ()) -> Mapping[str, str]:
    """An object of strings: all of its fields, or those of the given names."""
    fields = JsonObject(name, value)
    return {key: fields.string(key) for key in fields.all() if key in keys or not keys}


def _parse_golden(golden: JsonObject, classes: int, size: int) -> GoldenSamples:
    images = tuple(
        (integer(seed), integer(height), integer(width))
        for seed, height, width in golden.array("images")
    )
    largest = MAX_GOLDEN_SCALE * size
    if not 1 <= len(images) <= MAX_GOLDEN:
        raise ValueError(f"golden samples: {len(images)}, expected 1 to {MAX_GOLDEN} images")
    if not all(
        0 <= seed < 2**31 and 1 <= min(sides) <= max(sides) <= largest for seed, *sides in images
    ):
        raise ValueError(
            f"golden samples: expected seeds of 31 bits and sizes of 1 to {largest} pixels"
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

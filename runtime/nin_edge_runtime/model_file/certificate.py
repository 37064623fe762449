"""The certificate: what export measured of a model file, and how far the file is from PyTorch.

A file carries it as JSON (docs/artifact.md). What was not measured is None here; the words "not
measured" stand only in the JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from nin_edge_runtime.model_file.strict_json import JsonObject, array, string

NOT_MEASURED: Final = "not measured"
"""Stands in the JSON for a part that is None."""

BY_FILE: Final = "this file"
BY_PYTORCH: Final = "PyTorch, fp32"
"""What a figure was measured with."""

FITTED_HERE: Final = "fitted on these images"
FITTED_BEFORE: Final = "fitted in training"
"""Images that the temperature was fitted on. Calibration on them is slightly optimistic."""

_Part = TypeVar("_Part")

# Most parts are named tuples: making a dataclass takes eight times as long, at every start.


@dataclass(frozen=True)
class Agreement:
    """How close the file's probabilities are to PyTorch's."""

    data: str | None
    """Name of the data set; None for the golden samples."""
    count: int
    """Number of images."""
    max_abs_difference: float
    """Largest absolute difference of a probability, 0 to 1."""
    top1_agreement: float
    """Share of the images with the same most probable class, 0 to 1."""
    tolerance: float
    """Largest difference that export accepts."""
    firm_answers: int | None = None
    """Golden samples whose two best probabilities are well apart in PyTorch; None for data sets."""


class Accuracy(NamedTuple):
    """Accuracy on the test split."""

    data: str
    """Name of the data set."""
    images: int
    """Number of images."""
    measured_with: str
    """`BY_FILE` or `BY_PYTORCH`."""
    top1: float
    """Share of correct predictions, 0 to 1."""


class Calibration(NamedTuple):
    """Expected calibration error of the probabilities on the test split."""

    data: str
    """Name of the data set."""
    images: int
    """Number of images."""
    measured_with: str
    """`BY_FILE` or `BY_PYTORCH`."""
    ece_before: float
    """Expected calibration error without the temperature, 0 to 1."""
    ece_after: float
    """Expected calibration error with the temperature, 0 to 1."""


class Threshold(NamedTuple):
    """What one value of `min_score` gives."""

    min_score: float
    """Probability, 0 to 1, below which an image counts as unknown."""
    coverage: float
    """Share of images that reach it, 0 to 1."""
    top1: float | None
    """Accuracy on those images, 0 to 1; None if there are none."""


class Thresholds(NamedTuple):
    """Coverage and accuracy per `min_score`, on the hold-out: thresholds are chosen there."""

    data: str
    """Name of the data set."""
    split: str
    """`holdout`."""
    images: int
    """Number of images."""
    measured_with: str
    """`BY_FILE` or `BY_PYTORCH`."""
    temperature: str
    """`FITTED_HERE` or `FITTED_BEFORE`."""
    answers: tuple[Threshold, ...]
    """By ascending `min_score`."""


class Quantization(NamedTuple):
    """The activation ranges that int8 was quantised with."""

    method: str
    """`minmax`, `percentile` or `entropy`."""
    ranges: str
    """The data set that they were measured on, or that training recorded them."""
    images: int | None = None
    """Images that they were measured on; None if training recorded them."""


class Budget(NamedTuple):
    """What int8 costs on the hold-out, against fp32."""

    holdout_images: int
    """Number of images."""
    fp32_top1: float
    """Accuracy in fp32, 0 to 1."""
    int8_top1: float
    """Accuracy in int8, 0 to 1."""
    drop_points: float
    """Accuracy lost, in percentage points; below 0 where int8 gains."""
    max_drop_points: float | None
    """Largest drop allowed, in percentage points; None for any."""


@dataclass(frozen=True)
class Certificate:
    """What was measured of a file; None for what was not."""

    golden: Agreement | None = None
    """The file against PyTorch on the golden samples."""
    images: Agreement | None = None
    """The file against PyTorch on the test split."""
    accuracy: Accuracy | None = None
    """Accuracy on the test split."""
    calibration: Calibration | None = None
    """Calibration error on the test split."""
    thresholds: Thresholds | None = None
    """Coverage and accuracy by `min_score` on the hold-out; the oldest files lack it."""
    float_layers: tuple[str, ...] = ()
    """Convolutions that compute in fp32; the oldest files say `all`."""
    quantization: Quantization | None = None
    """Origin of the activation ranges; None but in int8."""
    budget: Budget | None = None
    """What int8 costs; None in other precisions too."""

    def to_json(self) -> dict[str, Any]:
        """The certificate as JSON can carry it, its keys in the order of the file."""
        parts: dict[str, Any] = {
            "golden": _part_json(self.golden, optional=("data", "firm_answers")),
            "images": _part_json(self.images, optional=("data", "firm_answers")),
            "accuracy": _part_json(self.accuracy),
            "calibration": _part_json(self.calibration),
            "thresholds": _thresholds_json(self.thresholds),
            "float_layers": list(self.float_layers),
        }
        if self.quantization is not None:  # only int8 has these two
            parts["quantization"] = _part_json(self.quantization, optional=("images",))
            parts["budget"] = _part_json(self.budget)
        return parts

    @classmethod
    def from_json(cls, value: object) -> Certificate:
        """Read what `to_json` gave, in this release or an older one; unknown keys are ignored.

        Raises:
            ValueError: a part that is there is not of its form; the message names it.
        """
        certificate = JsonObject("certificate", value)
        layers = certificate.get("float_layers")
        if isinstance(layers, str):  # the oldest files have "all" in place of a list
            layers = [layers]

        def part(name: str, read: Callable[[JsonObject], _Part]) -> _Part | None:
            fields = certificate.get(name)
            if fields is None or fields == NOT_MEASURED:
                return None
            return read(JsonObject(f"certificate: {name}", fields))

        return cls(
            golden=part("golden", _read_agreement),
            images=part("images", _read_agreement),
            accuracy=part("accuracy", _read_accuracy),
            calibration=part("calibration", _read_calibration),
            thresholds=part("thresholds", _read_thresholds),
            float_layers=tuple(map(string, array(layers or []))),
            quantization=part("quantization", _read_quantization),
            budget=part("budget", _read_budget),
        )


def _part_json(
    part: Agreement | Accuracy | Calibration | Quantization | Budget | None,
    *,
    optional: tuple[str, ...] = (),
) -> dict[str, Any] | str:
    """A part's fields, those among `optional` left out where they are None."""
    if part is None:
        return NOT_MEASURED
    fields = vars(part) if isinstance(part, Agreement) else part._asdict()
    return {key: value for key, value in fields.items() if value is not None or key not in optional}


def _thresholds_json(thresholds: Thresholds | None) -> dict[str, Any] | str:
    if thresholds is None:
        return NOT_MEASURED
    return {**thresholds._asdict(), "answers": [row._asdict() for row in thresholds.answers]}


def _read_agreement(part: JsonObject) -> Agreement:
    return Agreement(
        data=part.optional_string("data"),
        count=part.integer("count"),
        max_abs_difference=part.number("max_abs_difference"),
        top1_agreement=part.number("top1_agreement"),
        tolerance=part.number("tolerance"),
        firm_answers=part.optional_integer("firm_answers"),
    )


def _read_accuracy(part: JsonObject) -> Accuracy:
    return Accuracy(
        data=part.string("data"),
        images=part.integer("images"),
        measured_with=part.string("measured_with"),
        top1=part.number("top1"),
    )


def _read_calibration(part: JsonObject) -> Calibration:
    return Calibration(
        data=part.string("data"),
        images=part.integer("images"),
        measured_with=part.string("measured_with"),
        ece_before=part.number("ece_before"),
        ece_after=part.number("ece_after"),
    )


def _read_thresholds(part: JsonObject) -> Thresholds:
    rows = (JsonObject("certificate: thresholds", row) for row in part.array("answers"))
    return Thresholds(
        data=part.string("data"),
        split=part.string("split"),
        images=part.integer("images"),
        measured_with=part.string("measured_with"),
        temperature=part.string("temperature"),
        answers=tuple(
            Threshold(
                min_score=row.number("min_score"),
                coverage=row.number("coverage"),
                top1=row.optional_number("top1"),
            )
            for row in rows
        ),
    )


def _read_quantization(part: JsonObject) -> Quantization:
    return Quantization(
        method=part.string("method"),
        ranges=part.string("ranges"),
        images=part.optional_integer("images"),
    )


def _read_budget(part: JsonObject) -> Budget:
    return Budget(
        holdout_images=part.integer("holdout_images"),
        fp32_top1=part.number("fp32_top1"),
        int8_top1=part.number("int8_top1"),
        drop_points=part.number("drop_points"),
        max_drop_points=part.optional_number("max_drop_points"),
    )

"""FILE.json beside FILE.onnx: what a teacher of another program takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from nin_edge_runtime import ModelFileError
from nin_edge_runtime.folders import read_start
from nin_edge_runtime.model_file import strict_json
from nin_edge_runtime.model_file.strict_json import JsonObject, array, number, shortened, string
from nin_edge_runtime.preprocessing import Preprocessing

EXAMPLE: Final = (
    '{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "outputs": "logits"}'
)
"""A JSON for the message where there is none."""

_MAX_BYTES: Final = 16 << 20  # a thousand labels take 30,000


@dataclass(frozen=True)
class TeacherSpec:
    """What a model of another program takes and gives: the fields of FILE.json."""

    mean: tuple[float, ...]
    """Mean of each channel, of pixels scaled to 0 to 1; one number serves all channels."""
    std: tuple[float, ...]
    """Standard deviation of each channel, on the same scale; above 0, at most 1."""
    size: int | None = None
    """Side of the input in pixels; needed where the file leaves it free."""
    layout: str | None = None
    """`NCHW` (if not given) or `NHWC`: the order of the input's axes."""
    labels: tuple[str, ...] | None = None
    """Class of each output; if not given, the outputs are taken to have the order of the data's."""
    outputs: str = "probabilities"
    """`probabilities`, or `logits` of a model without a softmax."""
    output_name: str | None = None
    """The output to take; needed where the model has several."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON.

        Raises:
            ModelFileError: it cannot be read, or a field is unknown or not of its form; the message
                names the file and the field.
        """
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES:,} bytes")
            return cls._parse(strict_json.loads(read_start(path, _MAX_BYTES).decode()))
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{path}: {shortened(error)}") from error

    @classmethod
    def _parse(cls, value: object) -> Self:
        spec, known = JsonObject("the teacher's description", value), [f.name for f in fields(cls)]
        for key in spec.all():
            if key not in known:
                raise ValueError(f"unknown field {key[:80]!r}: expected {', '.join(known)}")
        layout, outputs = spec.optional_string("layout"), spec.optional_string("outputs")
        if layout not in (None, "NCHW", "NHWC"):
            raise ValueError(f"layout is {layout[:80]!r}: expected NCHW or NHWC")
        if outputs not in (None, "probabilities", "logits"):
            raise ValueError(f"outputs is {outputs[:80]!r}: expected probabilities or logits")
        return cls(
            mean=_numbers(spec, "mean"),
            std=_numbers(spec, "std"),
            size=spec.optional_integer("size"),
            layout=layout,
            labels=spec.optional("labels", _labels),
            outputs=outputs or cls.outputs,
            output_name=spec.optional_string("output_name"),
        )

    def preprocessing(self, size: int, channels: int) -> Preprocessing:
        """The normalisation of images of that size.

        Raises:
            ValueError: a number of channels or a range does not fit.
        """
        mean, std = (
            values * channels if len(values) == 1 else values for values in (self.mean, self.std)
        )
        return Preprocessing(size, channels, mean, std)


def _numbers(spec: JsonObject, key: str) -> tuple[float, ...]:
    """One number for all channels, or one for each."""
    if isinstance(value := spec.get(key), list):
        if len(value) not in (1, 3):
            raise ValueError(f"{key}: {len(value)} numbers, expected 1 or 3")
        return tuple(map(number, value))
    return (spec.number(key),)


def _labels(value: Any) -> tuple[str, ...]:
    labels = tuple(map(string, array(value)))
    if len(set(labels)) != len(labels) or len(labels) < 2:
        raise ValueError("expected at least two labels, all different")
    return labels

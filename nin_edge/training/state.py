"""The state of a training: what `--resume` needs besides the run's configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from nin_edge.metrics import Epoch
from nin_edge_runtime.model_file.strict_json import JsonObject

_MOST: Final = 1e9  # of a loss, of seconds (30 years), of images a second


@dataclass
class TrainingState:
    """What changes from step to step, except for weights and momenta."""

    step: int = 0
    """Number of steps taken."""
    loss_sum: float = 0.0
    """Sum of the losses of the current epoch's steps."""
    seconds: float = 0.0
    """Duration of the training so far, in seconds."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of torch's gradient scaler; empty if it is off."""
    history: list[Epoch] = field(default_factory=list)
    """The epochs that are completed."""

    def to_json(self) -> dict[str, Any]:
        """The state as JSON can represent it."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: object) -> TrainingState:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not a state; the message names the field.
        """
        state = JsonObject("state", stored)
        scaler = JsonObject("scaler", state.get("scaler"))
        history = [_read_epoch(JsonObject("history", row)) for row in state.array("history")]
        if [epoch.epoch for epoch in history] != list(range(1, len(history) + 1)):
            raise ValueError("history: expected the epochs 1, 2, 3, ...")
        return cls(
            step=state.integer("step"),
            loss_sum=_read(state, "loss_sum", -_MOST),
            seconds=_read(state, "seconds"),
            scaler=_read_scaler(scaler),
            history=history,
        )


def _read_scaler(scaler: JsonObject) -> dict[str, Any]:
    for name in scaler.all():
        scaler.number(name)  # raises for anything else
    return scaler.all()  # with integers as such, which torch insists on


def _read_epoch(row: JsonObject) -> Epoch:
    return Epoch(
        epoch=row.integer("epoch"),
        loss=_read(row, "loss", -_MOST),
        holdout_top1=_read_optional(row, "holdout_top1", 0, 1),
        holdout_loss=_read_optional(row, "holdout_loss", -_MOST),
        images_per_second=_read(row, "images_per_second"),
        seconds=_read(row, "seconds"),
    )


def _read_optional(fields: JsonObject, key: str, low: float, high: float = _MOST) -> float | None:
    return None if fields.get(key) is None else _read(fields, key, low, high)


def _read(fields: JsonObject, key: str, low: float = 0, high: float = _MOST) -> float:
    value = fields.number(key)
    if not low <= value <= high:
        raise ValueError(f"{key}: {value:g}, expected {low:g} to {high:g}")
    return value

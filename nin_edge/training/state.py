"""The state of a training: what `--resume` needs besides the run's configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nin_edge.metrics import Epoch
from nin_edge_runtime.model_file.strict_json import JsonObject


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
        return cls(
            step=state.integer("step"),
            loss_sum=state.number("loss_sum"),
            seconds=state.number("seconds"),
            scaler=_read_scaler(scaler),
            history=[_read_epoch(JsonObject("history", row)) for row in state.array("history")],
        )


def _read_scaler(scaler: JsonObject) -> dict[str, Any]:
    for name in scaler.all():
        scaler.number(name)  # raises for anything else
    return scaler.all()  # with integers as such, which torch insists on


def _read_epoch(row: JsonObject) -> Epoch:
    return Epoch(
        epoch=row.integer("epoch"),
        loss=row.number("loss"),
        holdout_top1=row.number("holdout_top1"),
        holdout_loss=row.number("holdout_loss"),
        images_per_second=row.number("images_per_second"),
        seconds=row.number("seconds"),
    )

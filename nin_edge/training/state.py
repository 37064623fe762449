"""The state of a training: what `--resume` needs besides the run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nin_edge.metrics import Epoch


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
    def from_json(cls, stored: Mapping[str, Any]) -> TrainingState:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError: it is not a state.
        """
        history = [Epoch(**epoch) for epoch in stored["history"]]
        return cls(**{**stored, "history": history})

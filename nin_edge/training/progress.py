"""What a training reports while it works."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nin_edge.training.plan import Plan
from nin_edge.training.state import TrainingState

if TYPE_CHECKING:
    from nin_edge.data import Dataset
    from nin_edge.network import NetworkConfig
    from nin_edge.training.recipe import Recipe


@dataclass(frozen=True)
class Loading:
    """Something takes its time before the first step: images are decoded, a layer is fitted."""

    task: str
    """What is being done, for example `reading images`."""
    done: int
    """Images, bytes or whatever it counts that are done."""
    total: int
    """How many there are in all."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A data set was opened."""

    dataset: Dataset
    """The data."""


@dataclass(frozen=True, eq=False)
class Started:
    """Everything is decided, and training starts."""

    network: NetworkConfig
    """The network."""
    recipe: Recipe
    """How it is trained."""
    notes: tuple[str, ...]
    """Decisions that the user may want to know of."""


@dataclass(frozen=True)
class Progress:
    """Progress of a training: every few steps, and at the end of each epoch."""

    epoch: int
    """The epoch, from 1."""
    epochs: int
    """Number of epochs."""
    done: float
    """Fraction of all steps that is done, 0 to 1."""
    loss: float
    """Mean training loss of this epoch so far."""
    images_per_second: float
    """Throughput since training started or was resumed."""
    seconds_left: float
    """Estimated duration of the remaining steps."""
    holdout_top1: float | None
    """Accuracy on the hold-out, 0 to 1; None within an epoch, or if no image is held out."""
    holdout_loss: float | None
    """Loss on the hold-out (`metrics.calibrated_loss`) in nats; None where the accuracy is."""
    epoch_ended: bool = False
    """Whether the epoch has ended."""


Event = Loading | Opened | Started | Progress
"""What `nin_edge.train` passes to `on_progress`; the other functions pass the first two."""


class Meter:
    """Measures throughput, and estimates the remaining time."""

    def __init__(self, plan: Plan, step: int, seconds: float, teacher_work: float) -> None:
        """Start the clock.

        Args:
            plan: steps in all, and how much work each is.
            step: number of steps taken before.
            seconds: duration of these.
            teacher_work: work of the teachers in each step (`Plan.work`).
        """
        self._plan, self._first, self._before = plan, step, seconds
        self._teacher_work = teacher_work
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Duration of the training so far, its earlier parts included."""
        return self._before + time.monotonic() - self._started

    def progress(self, state: TrainingState, epochs: int) -> Progress:
        """The progress of the training.

        Args:
            state: steps, losses and duration so far.
            epochs: number of all epochs.
        """
        step, elapsed = state.step, state.seconds - self._before
        epoch, place = divmod(step - 1, self._plan.steps_per_epoch)
        work, all_work, first_work = (
            self._plan.work(steps, self._teacher_work)
            for steps in (step, self._plan.steps, self._first)
        )
        return Progress(
            epoch=epoch + 1,
            epochs=epochs,
            done=step / self._plan.steps,
            loss=state.loss_sum / (place + 1),
            images_per_second=(step - self._first) * self._plan.batch_size / elapsed,
            seconds_left=(all_work - work) / (work - first_work) * elapsed,
            holdout_top1=None,
            holdout_loss=None,
        )

"""What a long training shows while it runs, and how it is asked to stop."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from nin_edge.cli._common import on_terminal

if TYPE_CHECKING:
    from nin_edge.training.progress import Progress


class Reporter:
    """Prints progress: one line that changes on a terminal, else a line per epoch and minute."""

    def __init__(self) -> None:
        self._printed = time.monotonic()
        self._terminal = on_terminal()

    def __call__(self, progress: Progress) -> None:
        now, epoch_ended = time.monotonic(), progress.holdout_top1 is not None
        if not epoch_ended and now - self._printed < (0.5 if self._terminal else 60.0):
            return
        self._printed = now
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        scores = ""
        if epoch_ended:
            scores = f"hold-out {progress.holdout_top1:.2%}, {progress.holdout_loss:.4f}  "
        line = (
            f"epoch {progress.epoch}/{progress.epochs}  {progress.done:4.0%}  "
            f"loss {progress.loss:.4f}  {scores}"
            f"{progress.images_per_second:,.0f} images/s  {minutes}:{seconds:02} left"
        )
        text = f"\r{line}\033[K" if self._terminal else line
        click.echo(text, nl=epoch_ended or not self._terminal, err=True)


class StopOnSignal:
    """Turns the first Ctrl-C or SIGTERM into a request to stop; the second one acts at once.

    Under torchrun every signal is a request: it may pass on several, and kills what has not stopped
    after 30 seconds.
    """

    def __init__(self, *, twice: bool) -> None:
        self._requested, self._twice = False, twice
        self._handlers: dict[int, Any] = {}

    def __call__(self) -> bool:
        # From the first step on: before it there is nothing to save, and a signal ends the process.
        if not self._handlers:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self._requested

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        if self._twice:
            self.restore()

    def restore(self) -> None:
        """Set the handlers that were set before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

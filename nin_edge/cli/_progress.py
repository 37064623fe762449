"""What a long training shows while it runs, and how it is asked to stop."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

import click

from nin_edge.cli import _signals
from nin_edge.cli._common import on_terminal

if TYPE_CHECKING:
    from nin_edge.training.progress import Progress


class Reporter:
    """Prints progress: on a terminal one line that changes, else a line an epoch and a minute."""

    def __init__(self) -> None:
        self._printed = time.monotonic()
        self._terminal = on_terminal()

    def __call__(self, progress: Progress) -> None:
        now, epoch_ended = time.monotonic(), progress.epoch_ended
        if not epoch_ended and now - self._printed < (0.5 if self._terminal else 60.0):
            return
        self._printed = now
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        scores = ""
        if progress.holdout_top1 is not None:
            scores = f"hold-out {progress.holdout_top1:.2%}, {progress.holdout_loss:.4f}  "
        line = (
            f"epoch {progress.epoch}/{progress.epochs}  {progress.done:4.0%}  "
            f"loss {progress.loss:.4f}  {scores}"
            f"{progress.images_per_second:,.0f} images/s  {minutes}:{seconds:02} left"
        )
        text = f"\r{line}\033[K" if self._terminal else line
        with suppress(OSError):  # a closed terminal: SIGHUP has the weights saved
            click.echo(text, nl=epoch_ended or not self._terminal, err=True)


class StopOnSignal:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a request to stop; the second acts at once.

    So does the first one before training has begun. Under torchrun every signal is a request: it
    may pass on several, and kills what has not stopped after 30 seconds.
    """

    def __init__(self, *, twice: bool) -> None:
        self._requested: float | None = None
        self._training, self._twice = not twice, twice
        self._handlers = {
            number: signal.signal(number, self._request) for number in _signals.ending()
        }

    def __call__(self) -> bool:
        return self._requested is not None

    def begin(self) -> None:
        """From now on there are steps to save."""
        self._training = True

    def _request(self, number: int, frame: FrameType | None) -> None:
        _signals.note(number)
        now = time.monotonic()
        if self._requested is None and self._training:
            self._requested = now
        elif self._twice and (
            self._requested is None or now - self._requested > _signals.ECHO_SECONDS
        ):
            self.restore()
            _signals.interrupt(number, frame)

    def restore(self) -> None:
        """Set the handlers that were set before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

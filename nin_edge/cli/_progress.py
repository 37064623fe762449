"""What a long training shows on the way, and how it is asked to stop."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import TYPE_CHECKING

import click

from nin_edge.cli._common import on_terminal

if TYPE_CHECKING:
    from nin_edge.training.loop import Progress


class Reporter:
    """Prints progress: a line redrawn on a terminal, elsewhere one an epoch and one a minute."""

    def __init__(self) -> None:
        self._printed = time.monotonic()
        self._terminal = on_terminal()

    def __call__(self, progress: Progress) -> None:
        now, ended = time.monotonic(), progress.holdout_top1 is not None
        if not ended and now - self._printed < (0.5 if self._terminal else 60.0):
            return
        self._printed = now
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        scores = (
            f"hold-out {progress.holdout_top1:.2%}, {progress.holdout_loss:.4f}  " if ended else ""
        )
        line = (
            f"epoch {progress.epoch}/{progress.epochs}  {progress.done:4.0%}  "
            f"loss {progress.loss:.4f}  {scores}"
            f"{progress.images_per_second:,.0f} images/s  {minutes}:{seconds:02} left"
        )
        click.echo(
            f"\r{line}\033[K" if self._terminal else line, nl=ended or not self._terminal, err=True
        )


class StopOnSignal:
    """Turns the first Ctrl-C or SIGTERM into a request to stop; the second acts at once.

    Not so under torchrun, which may hand on several, and ends what has not stopped in 30 seconds.
    """

    def __init__(self, *, twice: bool) -> None:
        self._asked, self._twice = False, twice
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._twice:
            self.restore()

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

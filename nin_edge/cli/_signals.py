"""Ctrl-C, SIGTERM and SIGHUP: the first one ends the command, which cleans up before.

After SIGTERM and SIGHUP, the process ends by that signal itself: a service manager sees why.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

ECHO_SECONDS: Final = 0.5
"""A signal so soon after another is the same one: `timeout` and terminals send two."""

_STUCK_SECONDS: Final = 5.0  # without a handler having run: the main thread hangs in native code

Handler = Callable[[int, FrameType | None], None]


class _Record:
    """The signals of this process."""

    first: int | None = None
    interrupted: float | None = None
    handled: float = 0.0


def ending() -> list[signal.Signals]:
    """The signals that end a command: not SIGINT in the background of a script, SIGHUP under nohup.

    Both are ignored there. Windows has no SIGHUP.
    """
    hangup = getattr(signal, "SIGHUP", None)
    ignorable = [signal.SIGINT, *([] if hangup is None else [hangup])]
    heard = [number for number in ignorable if signal.getsignal(number) != signal.SIG_IGN]
    return [*heard, signal.SIGTERM]


def note(number: int) -> None:
    """Remember a signal, for `exit_code` and `finish`."""
    _Record.handled = time.monotonic()
    if _Record.first is None:
        _Record.first = number


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal: the first raises KeyboardInterrupt, a later one ends the process at once."""
    note(number)
    now = time.monotonic()
    if _Record.interrupted is None:
        _Record.interrupted = now
        raise KeyboardInterrupt
    if now - _Record.interrupted > ECHO_SECONDS:
        _end_by(number)


def exit_code() -> int:
    """The exit code of a command that a signal ended."""
    return 128 + (_Record.first or signal.SIGINT)


def install() -> None:
    """Let signals end this process; call it once, in the main thread."""
    for number in ending():
        signal.signal(number, interrupt)
    if sys.platform != "win32":  # which wakes up sockets only
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()


def finish(code: object) -> None:
    """End the process by the signal that ended its command; return if none did."""
    if _Record.first is None or code != exit_code():
        return
    own = threading.main_thread()
    blocked = any(not thread.daemon and thread is not own for thread in threading.enumerate())
    if _Record.first != signal.SIGINT or blocked:  # Python would wait for a blocked thread
        _end_by(_Record.first)


def _end_by(number: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or its terminal is gone
            stream.flush()
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # process 1 of a container survives it
    os._exit(128 + number)


def _watch(reader: int) -> None:
    """End the process where a signal comes and the main thread never gets to handle it."""
    while number := os.read(reader, 1):
        came = time.monotonic()
        time.sleep(_STUCK_SECONDS)
        if _Record.handled < came - 1:
            os._exit(128 + number[0])

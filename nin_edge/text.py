"""Text of users (labels, file names), made safe and short enough to show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

_LONGEST_NAME: Final = 200  # characters; file systems have 255


def printable(text: str) -> str:
    """Text with control characters escaped, so that a file name cannot act on a terminal."""
    # The runtime has the same; importing it would load NumPy before `--help`.
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def is_utf8(text: str) -> bool:
    """Whether a name can be written down: file systems also know bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_utf8(name: str) -> str:
    """A name that can be written down: bytes of it that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def without_name(error: Exception, name: str | os.PathLike[str]) -> str:
    """The reason in a message of ours that begins with a name."""
    return str(error).removeprefix(f"{printable(os.fspath(name))}: ")


def shortened(text: str, limit: int = 200) -> str:
    """Text of a file from anywhere: control characters escaped, the rest of a long one counted."""
    return printable(_cut(text, limit))


def list_some(names: Sequence[str], limit: int = 10) -> str:
    """Names with commas between them, the rest of a long list or name as a number."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(_cut(name, _LONGEST_NAME) for name in names[:limit]) + more


def accuracy(top1: float, interval: tuple[float, float] | None) -> str:
    """An accuracy, 0 to 1, as a percentage with its 95% interval, if that is known."""
    if interval is None:
        return f"{top1:.2%}"
    return f"{top1:.2%} (95% interval {interval[0]:.2%} to {interval[1]:.2%})"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"

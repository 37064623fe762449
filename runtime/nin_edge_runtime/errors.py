"""The errors that nin-edge raises on purpose: a base class, and one child for each reaction to it.

Each child also inherits the matching built-in exception, so that `except ValueError` works without
importing anything from here.
"""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 2_000  # characters of a message
_END: Final = 500  # of them, how many at the end of a longer one are shown


def _printable(text: str) -> str:
    """Text with control characters escaped, so that a file name cannot act on a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


class NinEdgeError(Exception):
    """Base of every error that nin-edge raises on purpose; its text can be shown to users.

    The text may quote what comes from anywhere: names in an archive, a server's response. So it is
    one line without control characters, and of a very long one the middle is left out.
    """

    def __str__(self) -> str:
        """The message."""
        text = super().__str__()
        if (more := len(text) - _LONGEST) > 0:
            text = f"{text[: _LONGEST - _END]}... ({more:,} characters) ...{text[-_END:]}"
        return _printable(text)


class ModelFileError(NinEdgeError, ValueError):
    """A model or checkpoint is missing, damaged, foreign, or of an unsupported format."""


class ImageError(NinEdgeError, ValueError):
    """An input is not an image that can be classified; the message names it."""


class ProviderError(NinEdgeError, RuntimeError):
    """The requested execution provider is unknown or not active."""


class MissingDependencyError(NinEdgeError, ImportError):
    """A package that this call needs is not installed; the message has the command for it."""


class GateError(NinEdgeError):
    """A parity or accuracy gate failed: a measured difference exceeds its tolerance."""

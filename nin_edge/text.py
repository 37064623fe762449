"""Text from strangers (labels, names of files), made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text with control characters as escapes, so that a file's name cannot act on a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )

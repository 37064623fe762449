"""Text of users (labels, file names), made safe and short enough to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nin_edge_runtime.errors import printable as printable

_LONGEST_NAME: Final = 200  # characters; file systems have 255


def shortened(text: str, limit: int = 200) -> str:
    """Text of a file from anywhere: control characters escaped, the rest of a long one counted."""
    return printable(_cut(text, limit))


def list_some(names: Sequence[str], limit: int = 10) -> str:
    """Names with commas between them, the rest of a long list or name as a number."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(_cut(name, _LONGEST_NAME) for name in names[:limit]) + more


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"

"""Text of users (labels, file names), made safe and short enough to show."""

from __future__ import annotations

from collections.abc import Sequence

from nin_edge_runtime.errors import printable as printable


def shortened(text: str, limit: int = 200) -> str:
    """Text of a file from anywhere: control characters escaped, the rest of a long one counted."""
    if len(text) <= limit:
        return printable(text)
    return f"{printable(text[:limit])}... ({len(text):,} characters)"


def list_some(names: Sequence[str], limit: int = 10) -> str:
    """Names with commas between them, the rest of a long list as a number."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

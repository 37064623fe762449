"""Placeholders for figures that were not measured."""

from __future__ import annotations

from typing import Final

from nin_edge_runtime.model_file import NOT_MEASURED

HOW: Final = "export again with <code>--eval-data DATA</code>, a folder or archive of images"
"""How to get what was not measured."""


def missing(title: str) -> str:
    """Placeholder for figures that were not measured."""
    return f'<p class="not">{title}: {NOT_MEASURED}. To get it, {HOW}.</p>'

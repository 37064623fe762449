"""The elements that the report's page is made of, as HTML text."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

from nin_edge.text import printable
from nin_edge_runtime.model_file import NOT_MEASURED

HOW: Final = "export again with <code>--eval-data DATA</code>, a folder or archive of images"
"""How to get what was not measured."""


def text(value: str) -> str:
    """Text from anywhere, escaped: control characters are shown, and nothing is markup."""
    return html.escape(printable(value))


def section(title: str, content: str) -> str:
    """A part of the page with its heading."""
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def missing(title: str) -> str:
    """Placeholder for figures that were not measured."""
    return f'<p class="not">{title}: {NOT_MEASURED}. To get it, {HOW}.</p>'


def table(corner: str, heads: Iterable[str], rows: str, caption: str) -> str:
    """A table of rows, which are HTML; the heads are plain text."""
    columns = "".join(f'<th scope="col">{text(head)}</th>' for head in (corner, *heads))
    return (
        f'<div class="wide"><table>\n<caption>{caption}</caption>\n'
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def row(head: str, cells: Iterable[str]) -> str:
    """A row of a table; head and cells are HTML."""
    return f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>'


def cell(content: str | None) -> str:
    """A cell of a table; None was not measured."""
    return f'<td class="not">{NOT_MEASURED}</td>' if content is None else f"<td>{content}</td>"


def figure(svg: str, caption: str, css_class: str = "") -> str:
    """A picture with its caption."""
    return f'<figure class="{css_class}">{svg}<figcaption>{caption}</figcaption></figure>'


def terms(rows: Iterable[tuple[str, str]]) -> str:
    """A list of names and their values, both HTML."""
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in rows)}</dl>"

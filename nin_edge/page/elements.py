"""The elements that pages are made of, as HTML text."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nin_edge.text import printable
from nin_edge_runtime.model_file import NOT_MEASURED

_PICTURE: Final = 128  # largest side of a picture, in pixels


def text(value: str) -> str:
    """Text from anywhere, escaped: control characters are shown, and nothing is markup."""
    return html.escape(printable(value))


def section(title: str, content: str) -> str:
    """A part of the page with its heading."""
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


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


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image (S, S, C) as a PNG file, reduced where it is large."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((_PICTURE, _PICTURE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def pictures(items: Iterable[str]) -> str:
    """A grid of what `picture` gives."""
    return f'<ul class="pictures">\n{"".join(items)}</ul>'


def picture(image: bytes, alt: str, rows: Iterable[tuple[str, str]], note: str) -> str:
    """An image (a PNG file) with names and values, both HTML, and a note; alt and note are text."""
    data = base64.b64encode(image).decode("ascii")
    return (
        f'<li><img src="data:image/png;base64,{data}" alt="{text(alt)}">'
        f"<div>{terms(rows)}<small>{text(note)}</small></div></li>\n"
    )

"""Pages of figures and pictures: one HTML file each, which loads and runs nothing."""

from nin_edge.page.elements import (
    cell,
    figure,
    picture,
    pictures,
    png,
    row,
    section,
    table,
    terms,
    text,
)
from nin_edge.page.template import to_page

__all__ = [
    "cell",
    "figure",
    "picture",
    "pictures",
    "png",
    "row",
    "section",
    "table",
    "terms",
    "text",
    "to_page",
]

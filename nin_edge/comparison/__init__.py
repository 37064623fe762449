"""Two models on the same images: what an update changes."""

from nin_edge.comparison.comparison import (
    Change,
    Comparison,
    Labelled,
    Limits,
    Model,
    compare,
)
from nin_edge.comparison.images import Images, has_labels, labelled, unlabelled
from nin_edge.comparison.page import to_html

__all__ = [
    "Change",
    "Comparison",
    "Images",
    "Labelled",
    "Limits",
    "Model",
    "compare",
    "has_labels",
    "labelled",
    "to_html",
    "unlabelled",
]

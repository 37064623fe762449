"""Pictures of measurements, by matplotlib; drawn without pyplot, so with no window or state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_NUMBERED: Final = 20  # classes up to which every cell has its number
_NAMED: Final = 100  # classes up to which every row and column has its name
_LONGEST: Final = 24  # characters of a name; longer ones would push the matrix off the page
_LONGEST_TITLE: Final = 65  # characters that the narrowest picture has room for


def confusion_png(labels: Sequence[str], confusion: NDArray[np.int64], title: str) -> bytes:
    """A confusion matrix as a PNG file, each cell shaded by its share of the row.

    Args:
        labels: (K,), printable.
        confusion: (K, K), images by their class (row) and the answer (column).
        title: printable.
    """
    classes = len(labels)
    support = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(support, 1)  # classes without images stay white
    side = min(max(5.0, 0.45 * classes + 2), 30.0)  # inches
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if classes <= _NUMBERED:
        for (row, column), count in np.ndenumerate(confusion):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
    if classes <= _NAMED:
        names = [_shortened(label) for label in labels]
        # A name is no formula: $ is a character like any other.
        axes.set_xticks(range(classes), names, rotation=90, parse_math=False, fontsize=8)
        axes.set_yticks(range(classes), names, parse_math=False, fontsize=8)
    axes.set_xlabel("answer")
    axes.set_ylabel("class")
    figure.suptitle(_shortened(title, _LONGEST_TITLE), parse_math=False, fontsize=9)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A character that no font here has is drawn as a box, which shows it well enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _shortened(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"

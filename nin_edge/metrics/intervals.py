"""How far an accuracy may be from the one on all images of the same kind: its 95% interval."""

from __future__ import annotations

import math
from typing import Final

_Z: Final = 1.959963984540054  # 95% of a normal distribution are within so many deviations


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95% interval of an accuracy (Wilson 1927, Journal of the ASA 22, pages 209 to 212).

    It stays within 0 to 1, and it has a width even where no image or every image is correct.

    Args:
        correct: number of correct predictions.
        total: number of images, at least 1.

    Returns:
        Lower and upper bound, 0 to 1.

    Raises:
        ValueError: `correct` is not from 0 to `total`, or there are no images.
    """
    if not 0 <= correct <= total or not total:
        raise ValueError(f"{correct} correct of {total} images: expected 0 to all of at least 1")
    share, square = correct / total, _Z**2 / total
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # Rounding may miss an end by 1e-17.
    return max(0.0, centre - half) if correct else 0.0, centre + half if correct < total else 1.0

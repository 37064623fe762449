"""How far a measured share may be from the true one."""

from __future__ import annotations

import math
from typing import Final

_Z: Final = 1.959963984540054  # two-sided 95% of the normal distribution


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson, 1927), for example of an accuracy.

    Unlike the normal approximation, it stays within 0 to 1 and holds for small samples.

    Args:
        correct: 0 to `total`.
        total: at least 1.

    Returns:
        Lower and upper bound, 0 to 1.

    Raises:
        ValueError: there is no such share.
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} of {total}: expected 0 to total, of at least 1")
    share, spread = correct / total, _Z * _Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    # Rounding may leave the share itself, at 0 or 1, a hair outside.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))

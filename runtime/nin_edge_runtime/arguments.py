"""Checks of numbers that callers give: Python's own, or NumPy's scalars."""

from __future__ import annotations

import math
import operator


def whole_number(name: str, value: object, low: int, high: int | None = None) -> int:
    """A whole number in a range.

    Args:
        name: what messages call it.
        value: an int, or anything that Python takes as an index, such as `np.int64(2)`.
        low: smallest value.
        high: largest value; any if None.

    Raises:
        ValueError: it is none, or out of its range.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = low - 1
    if number < low or (high is not None and number > high):
        limits = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name} is {value!r}: expected a whole number, {limits}")
    return number


def probability(name: str, value: object) -> float:
    """A number from 0 to 1.

    Raises:
        ValueError: it is none, or out of its range.
    """
    try:
        number = math.nan if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"{name} is {value!r}: expected a probability, 0 to 1")
    return number

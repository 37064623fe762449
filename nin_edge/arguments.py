"""Arguments as Python's callers give them, in the form that the library takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar, cast

_Item = TypeVar("_Item", bound=str | os.PathLike[str])


def plain(value: Any) -> Any:
    """A number of NumPy's or torch's as one of Python's, which JSON can represent."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def several(values: _Item | Sequence[_Item]) -> tuple[_Item, ...]:
    """Several names or paths; a single one is not a sequence of letters."""
    if isinstance(values, (str, os.PathLike)):
        return (cast(_Item, values),)
    return tuple(values)

"""Strict JSON, from a file that nobody vouches for, and its values checked for their types."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

_MAX_DIGITS: Final = 20  # of an integer: the most that 64 bits can hold
_MAX_CONTAINERS: Final = 200_000  # lists and objects: an empty one takes 70 bytes for its 3

_Value = TypeVar("_Value")


def loads(text: str) -> Any:
    """Parse JSON, and refuse what the standard library's parser lets through.

    That is NaN, Infinity, numbers beyond float64 (`1e999`), lone surrogates and, in Python before
    3.10.7, integers of any length, which take time that grows with the square of it.

    Raises:
        ValueError: not strict JSON, or with more brackets than any metadata needs.
    """
    if text.count("[") + text.count("{") > _MAX_CONTAINERS:
        raise ValueError(f"JSON with more than {_MAX_CONTAINERS:,} brackets")
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:  # a lone surrogate cannot be encoded, and so not printed
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _bounded_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is beyond float64")
    return value


_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse, parse_int=_bounded_integer, parse_float=_finite
)


def number(value: object) -> float:
    """A finite number.

    Raises:
        ValueError: it is none.
    """
    # Not `isinstance`: True is an int.
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{shown(value)}, expected a number")
    return float(value)  # type: ignore[arg-type]


def integer(value: object) -> int:
    """An integer of at least 0.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"{shown(value)}, expected an integer of at least 0")
    return value


def string(value: object) -> str:
    """A string.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)}, expected a string")
    return value


def boolean(value: object) -> bool:
    """True or False.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)}, expected true or false")
    return value


def array(value: object) -> list[Any]:
    """A list.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)}, expected a list")
    return value


def plain(value: object, depth: int) -> None:
    """Check that lists and objects are nested at most `depth` deep.

    Raises:
        ValueError: they are nested deeper.
    """
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if items and not depth:
        raise ValueError("JSON that is nested too deeply")
    for item in items:
        plain(item, depth - 1)


def shown(value: object) -> str:
    """A value for an error message; one from a file could be as long as the file."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    return repr(value[:80] if isinstance(value, str) else value)


def shortened(error: object, limit: int = 300) -> str:
    """An error's text on one line; one that quotes a file could be as long as the file."""
    line = " ".join(str(error).split())
    return line if len(line) <= limit else f"{line[:limit]}..."


class JsonObject:
    """A JSON object whose fields are checked for their types as they are taken.

    Every method raises ValueError, naming the field, where it is missing or of another type.
    """

    def __init__(self, name: str, value: object) -> None:
        """Take a value that must be an object; errors call it `name`."""
        if not isinstance(value, dict):
            raise ValueError(f"{name}: expected an object")
        self._name, self._fields = name, value

    def get(self, key: str) -> Any:
        """A field of any type; None where it is missing."""
        return self._fields.get(key)

    def all(self) -> dict[str, Any]:
        """All fields, of any types."""
        return self._fields

    def optional(self, key: str, check: Callable[[object], _Value]) -> _Value | None:
        """A field as `check` gives it; None where it is null or missing."""
        return None if self.get(key) is None else self._checked(key, check)

    def number(self, key: str) -> float:
        """A finite number."""
        return self._checked(key, number)

    def integer(self, key: str) -> int:
        """An integer of at least 0."""
        return self._checked(key, integer)

    def string(self, key: str) -> str:
        """A string."""
        return self._checked(key, string)

    def array(self, key: str) -> list[Any]:
        """A list."""
        return self._checked(key, array)

    def optional_number(self, key: str) -> float | None:
        """A finite number; None where it is null or missing."""
        return self.optional(key, number)

    def optional_integer(self, key: str) -> int | None:
        """An integer of at least 0; None where it is null or missing."""
        return self.optional(key, integer)

    def optional_string(self, key: str) -> str | None:
        """A string; None where it is null or missing."""
        return self.optional(key, string)

    def _checked(self, key: str, check: Callable[[object], _Value]) -> _Value:
        if key not in self._fields:
            raise ValueError(f"{self._name}: {key} is missing")
        try:
            return check(self._fields[key])
        except ValueError as error:
            raise ValueError(f"{self._name}: {key}: {error}") from None

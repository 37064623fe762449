"""Protobuf's wire format, read strictly: what two parsers could understand in two ways is refused.

Protobuf itself is lenient. It takes numbers in more bytes than they need, cuts field numbers off at
32 bits, skips what it does not know, and merges a message that occurs twice. So a lenient reader of
ours could look at other bytes than ONNX Runtime does. No serialiser writes any of that.

See protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types: how a field's value is laid out."""

Span: TypeAlias = "tuple[int, int]"
"""Where a value lies in the file: from the first byte to behind the last."""

Schema: TypeAlias = "Mapping[int, tuple[str, bool | None]]"
"""A message's fields: tag -> (name, may it recur); None for one that is refused by that name."""


MAX_FIELDS: Final = 2048
"""Most fields of the outer messages, those of a graph for example; a dozen times what is usual."""
_MAX_INNER_FIELDS: Final = 32  # of a node, an attribute, a tensor: bounds the time of hostile files


def tag(number: int, wire: int = BYTES) -> int:
    """What stands before a field: its number and wire type in one."""
    return number << 3 | wire


def fields(
    data: bytes, position: int, end: int, limit: int = MAX_FIELDS
) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of each field's value; a `VARINT` has its value in place of the start.

    Raises:
        ValueError: broken, not as a serialiser writes it, or of more fields than the limit.
    """
    left = limit
    while position < end:
        if not left:
            raise ValueError(f"more than {limit:,} fields up to byte {position}")
        left -= 1
        key = data[position]
        if key < 0x80:  # most are: spares a call
            position += 1
        else:
            key, position = varint(data, position, end)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"field number {number} at byte {position}")
        if wire == BYTES:
            if position < end and (length := data[position]) < 0x80:
                start = position + 1
            else:
                length, start = varint(data, position, end)
            position = start + length
        elif wire == VARINT:
            start, position = varint(data, position, end)
        elif wire in (FIXED32, FIXED64):
            start = position
            position += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position > end:
            raise ValueError(f"a field ends at byte {position}, beyond the end at {end}")
        yield key, start, position


def varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """An unsigned number of at most 64 bits in as few bytes as it needs, and where it ends."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            if (byte or shift == 7) and value < 1 << 64:
                return value, position
            break
    raise ValueError(f"a broken number at byte {position}")


def message(
    data: bytes, span: Span, schema: Schema, what: str, limit: int = _MAX_INNER_FIELDS
) -> dict[str, Any]:
    """The fields of a message by name: a number or a `Span` each, in a list where it may recur.

    Args:
        data: the whole file.
        span: where the message lies in it.
        schema: its fields; others are refused.
        what: what to call the message in errors; its own name, if it has one, is added.
        limit: most fields that it may have.

    Raises:
        ValueError: broken, a field that is not in the schema, one twice that may be there once, or
            too many.
    """
    found: dict[str, Any] = {}
    fault = ""
    for key, start, end in fields(data, *span, limit):
        name, recurs = schema.get(key, ("", None))
        value = start if key & 7 == VARINT else (start, end)
        if recurs:
            found.setdefault(name, []).append(value)
        elif recurs is None:
            fault = fault or name or f"a field {key >> 3} of wire type {key & 7}"
        elif name in found:
            fault = fault or f"{name} twice"
        else:
            found[name] = value
    if fault:
        raise ValueError(f"{called(data, found, what)} has {fault}")
    return found


def called(data: bytes, found: Mapping[str, Any], what: str) -> str:
    """A message in an error: what it is, and its own name where it has one."""
    name = text(data, found.get("name", (0, 0)))
    return f"{what} {name[:80]!r}" if name else what


def text(data: bytes, span: Span) -> str:
    """A string field; what is no UTF-8 in it becomes question marks."""
    return data[slice(*span)].decode("utf-8", "replace")


def signed(value: int) -> int:
    """The int64 that a varint stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


_CONTINUED: Final = bytes(range(0x80, 0x100))


def count_varints(data: bytes, span: Span) -> int:
    """How many numbers a packed field of varints holds."""
    return len(data[slice(*span)].translate(None, _CONTINUED))

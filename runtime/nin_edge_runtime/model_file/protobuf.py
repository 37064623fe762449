"""Protobuf's wire format, read strictly: bytes that two parsers could read in two ways are refused.

Protobuf itself is lenient. It accepts numbers in more bytes than they need, truncates field numbers
to 32 bits, skips unknown fields, and merges a message that occurs twice. A lenient reader could
therefore see another graph than ONNX Runtime does. No serialiser writes any of that.

See protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types: the encoding of a field's value."""

Span: TypeAlias = "tuple[int, int]"
"""A value's first byte in the file, and the byte after its last."""

Schema: TypeAlias = "Mapping[int, tuple[str, bool | None]]"
"""A message's fields: tag -> (name, whether it may recur); None refuses the field by that name."""

MAX_FIELDS: Final = 2048
"""Most fields of an outer message, such as a graph; a dozen times the usual number."""

_MAX_INNER_FIELDS: Final = 32  # of a node, attribute or tensor: bounds the time of hostile files


def tag(number: int, wire: int = BYTES) -> int:
    """The number before a field, which combines its field number and wire type."""
    return number << 3 | wire


def fields(
    data: bytes, position: int, end: int, limit: int = MAX_FIELDS
) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of each field's value; a `VARINT` has its value in place of the start.

    Raises:
        ValueError: broken, not as a serialiser writes it, or with more fields than the limit.
    """
    left = limit
    while position < end:
        if not left:
            raise ValueError(f"more than {limit:,} fields up to byte {position}")
        left -= 1
        key = data[position]
        if key < 0x80:  # most are, and that saves a call
            position += 1
        else:
            key, position = varint(data, position, end)
        if not 8 <= key < 1 << 32:  # field numbers from 1 to 2^29 - 1
            raise ValueError(f"field number {key >> 3} at byte {position}")
        wire = key & 7
        if wire == BYTES:
            if position < end and (length := data[position]) < 0x80:
                start = position + 1
            else:
                length, start = varint(data, position, end)
            position = start + length
        elif wire == VARINT:
            if position < end and (start := data[position]) < 0x80:
                position += 1
            else:
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


_UNKNOWN: Final = ("", None)  # a field that is in no schema


def message(
    data: bytes, span: Span, schema: Schema, title: str, limit: int = _MAX_INNER_FIELDS
) -> dict[str, Any]:
    """The fields of a message by name: a number or a `Span` each, in a list where it may recur.

    Args:
        data: the whole file.
        span: where the message lies in it.
        schema: its fields; others are refused.
        title: the message's title in errors; its own name is added if it has one.
        limit: most fields that it may have.

    Raises:
        ValueError: broken, with a field that is not in the schema, with one twice that must not
            recur, or with too many.
    """
    values: dict[str, Any] = {}
    fault = ""
    for key, start, end in fields(data, *span, limit):
        name, recurs = schema.get(key, _UNKNOWN)
        value = start if key & 7 == VARINT else (start, end)
        if recurs:
            if name in values:  # half the time of `setdefault`, for the lists that it would make
                values[name].append(value)
            else:
                values[name] = [value]
        elif recurs is None:
            fault = fault or name or f"a field {key >> 3} of wire type {key & 7}"
        elif name in values:
            fault = fault or f"{name} twice"
        else:
            values[name] = value
    if fault:
        raise ValueError(f"{called(data, values, title)} has {fault}")
    return values


def called(data: bytes, values: Mapping[str, Any], title: str) -> str:
    """A message in an error: its title, and its own name where it has one."""
    name = text(data, values.get("name", (0, 0)))
    return f"{title} {name[:80]!r}" if name else title


def text(data: bytes, span: Span) -> str:
    """A string field; bytes that are not UTF-8 become replacement characters."""
    return data[slice(*span)].decode("utf-8", "replace")


def signed(value: int) -> int:
    """The int64 that a varint stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


_CONTINUED: Final = bytes(range(0x80, 0x100))


def count_varints(data: bytes, span: Span) -> int:
    """Number of values in a packed field of varints."""
    return len(data[slice(*span)].translate(None, _CONTINUED))

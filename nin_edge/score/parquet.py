"""Parquet files with a column of encoded images: what is in them, and their rows.

The column has bytes, or structs with a field `bytes`, as Hugging Face's data sets have. A row group
that is damaged is one error; those behind it are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from nin_edge.text import is_utf8
from nin_edge_runtime import ImageError, NinEdgeError

_ROWS: Final = 16  # that are in memory at once
_BUFFER: Final = 1 << 20  # bytes; without one, all of a row group's column is read at once

_ERRORS: Final = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises at damaged files


@dataclass(frozen=True)
class Contents:
    """What a file has."""

    rows: int
    """Number of its rows."""
    columns: tuple[str, ...]
    """Names of all columns."""
    images: tuple[str, ...]
    """Names of those that can have images."""


def look_into(path: Path) -> Contents | None:
    """What a file has, by its footer; None if that cannot be read."""
    try:
        with _opened(path) as file:
            schema = file.schema_arrow
            return Contents(
                file.metadata.num_rows,
                tuple(schema.names),
                tuple(field.name for field in schema if _leaf(field) is not None),
            )
    except _ERRORS:
        return None


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A file, of any name: those that are not UTF-8, pyarrow does not open itself."""
    with ExitStack() as stack:
        source = path if is_utf8(str(path)) else stack.enter_context(path.open("rb"))
        yield stack.enter_context(pq.ParquetFile(source, buffer_size=_BUFFER))


def read_rows(
    path: Path, column: str, start: int, stop: int | None
) -> Iterator[tuple[int | None, bytes | ImageError]]:
    """The images of some rows.

    Args:
        path: the file.
        column: which one has the images.
        start: the first row, from 0.
        stop: the first row behind; None for all of them.

    Yields:
        The row, or None for the file as a whole, and its image or the reason why there is none.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_opened(path))
        except _ERRORS as error:
            yield None, ImageError(f"not a readable Parquet file ({error})")
            return
        fields = {field.name: _leaf(field) for field in file.schema_arrow}
        if (leaf := fields.get(column)) is None:
            yield None, ImageError(no_column(column, fields))
            return
        first = 0
        for group in range(file.num_row_groups):
            behind = first + file.metadata.row_group(group).num_rows
            wanted = range(max(start, first), behind if stop is None else min(stop, behind))
            if wanted:
                yield from _group(file, group, leaf, first, wanted)
            first = behind


def no_column(column: str, columns: Any) -> str:
    """The message for a column that is missing, or has no bytes."""
    return f"no column {column!r} of bytes; the columns are {', '.join(map(str, columns))}"


def choose_column(path: Path, contents: Contents, column: str | None) -> str:
    """The column of the images: the one asked for, or the only one that can have them.

    Raises:
        NinEdgeError: there is none, or several.
    """
    if column is not None:
        if column not in contents.images:
            raise NinEdgeError(f"{path}: {no_column(column, contents.columns)}")
        return column
    if len(contents.images) != 1:
        found = ", ".join(contents.images) or "none"
        raise NinEdgeError(
            f"{path}: expected one column of images' bytes, found {found} of "
            f"{', '.join(contents.columns)}; --column names it"
        )
    return contents.images[0]


def _leaf(field: pa.Field) -> str | None:
    """The name of the column of bytes in a field; None if it has none."""
    if _is_bytes(field.type):
        return str(field.name)
    if pa.types.is_struct(field.type):
        inner = field.type.get_field_index("bytes")
        if inner >= 0 and _is_bytes(field.type.field(inner).type):
            return f"{field.name}.bytes"
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary)
    ) or pa.types.is_fixed_size_binary(kind)


def _group(
    file: pq.ParquetFile, group: int, leaf: str, first: int, wanted: range
) -> Iterator[tuple[int | None, bytes | ImageError]]:
    """The wanted rows of a row group, which begins with the row `first`."""
    row = first
    try:
        for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[leaf]):
            if row + len(batch) > wanted.start:
                for place, value in enumerate(_values(batch.column(0)), row):
                    if place in wanted:
                        yield place, _image(value)
            row += len(batch)
            if row >= wanted.stop:
                return
    except _ERRORS as error:
        begun = max(row, wanted.start)
        rows = f"rows {begun} to {wanted.stop - 1}" if wanted.stop - begun > 1 else f"row {begun}"
        yield begun, ImageError(f"{rows}: damaged in the Parquet file ({error})")


def _values(array: pa.Array) -> pa.Array:
    return array.flatten()[0] if pa.types.is_struct(array.type) else array


def _image(value: pa.Scalar) -> bytes | ImageError:
    data: bytes | None = value.as_py()
    return ImageError("null, expected an image's bytes") if data is None else data

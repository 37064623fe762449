"""A table of labels: a CSV file with the columns `image` and `label`, and `split` if it has one.

For folders whose images are not sorted into one folder a class.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

from nin_edge.data.archives import MAX_MEMBER
from nin_edge.data.errors import DatasetError
from nin_edge.data.folders import SPLIT_NAMES, split_of
from nin_edge.text import list_some
from nin_edge_runtime.folders import read_start
from nin_edge_runtime.image import IMAGE_SUFFIXES

_COLUMNS: Final = {
    "image": ("image", "filename", "file", "path", "image_path", "image_id", "id"),
    "label": ("label", "class", "category"),
    "split": ("split", "subset"),
}
"""Names of each column, in any case."""

_MAX_PARTS: Final = 64  # of the end of a path that a row may state
_DELIMITERS: Final = (",", ";", "\t")


@dataclass(frozen=True)
class Row:
    """One image of a table."""

    line: int
    """Line of the file, from 1, for messages."""
    image: str
    """Path or name of the image as the table has it."""
    label: str
    """Its class."""
    split: str
    """`train`, `validation` or `test`; empty where the table has no such column."""


def read_table(file: Path) -> list[Row]:
    """Read a table of labels; commas, semicolons or tabs separate its columns.

    Raises:
        DatasetError: it cannot be read, lacks a column, or a row lacks a value.
    """
    data = read_bytes(file)
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{file}: not UTF-8 text, expected a CSV file of labels; spreadsheets save it as CSV "
            "UTF-8 or Unicode text"
        ) from error
    try:
        rows = list(_rows(file, text))
    except csv.Error as error:
        raise DatasetError(f"{file}: not a readable CSV file ({error})") from error
    if not rows:
        raise DatasetError(f"{file}: no rows, expected a line for each image")
    return rows


def read_bytes(file: Path) -> bytes:
    """The bytes of a table.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        if file.exists() and not file.is_file():
            raise DatasetError(f"{file}: a directory, pipe or device, expected a table of labels")
        if file.stat().st_size > MAX_MEMBER:
            raise DatasetError(f"{file}: more than {MAX_MEMBER:,} bytes for a table of labels")
        return read_start(file, MAX_MEMBER)
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}, expected a table of labels") from error


def find_images(
    file: Path, rows: Sequence[Row], path: Path, names: Sequence[str]
) -> Mapping[str, Row]:
    """The row of each image that a table has, by the image's path in the source.

    A table may have the path below DATA, the end of it, or the name without its suffix.

    Args:
        file: the table, for messages.
        rows: from `read_table`.
        path: of the data set, for messages.
        names: paths of the files in the source.

    Raises:
        DatasetError: an image is not there, or could be several, or has two classes.
    """
    index = _index(names)
    found: dict[str, Row] = {}
    missing = []
    for row in rows:
        matches = _matches(index, row.image)
        if len(matches) > 1:
            _refuse(file, row.line, f"{row.image!r} could be {list_some(matches, 3)}")
        if not matches:
            missing.append(row)
            continue
        first = found.setdefault(matches[0], row)
        if (first.label, first.split) != (row.label, row.split):
            _refuse(
                *(file, row.line),
                f"{row.image!r} is {row.label}, but {first.label} in line {first.line}"
                if first.label != row.label
                else f"{row.image!r} is in {row.split}, but in {first.split} in line {first.line}",
            )
    if missing:
        more = f", nor {len(missing) - 1:,} more of {len(rows):,}" if len(missing) > 1 else ""
        _refuse(file, missing[0].line, f"no file {missing[0].image!r} in {path}{more}")
    return found


def _rows(file: Path, text: str) -> Iterator[Row]:
    lines = text.splitlines()
    above = int(bool(lines) and lines[0].lower().startswith("sep="))  # for Excel alone
    header = lines[above] if len(lines) > above else ""
    for delimiter in _DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter))]
        places = {
            column: next((names.index(name) for name in known if name in names), None)
            for column, known in _COLUMNS.items()
        }
        image, label, split = places.values()
        if image is not None and label is not None:
            break
    else:
        raise DatasetError(
            f"{file}: the first line is {header.strip()[:80]!r}, expected the columns image and "
            "label"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for _ in range(above + 1):
        next(reader)
    for values in reader:
        if not any(values):
            continue
        cells = [
            values[place].strip() if place is not None and place < len(values) else ""
            for place in (image, label, split)
        ]
        if not (cells[0] and cells[1]):
            _refuse(file, reader.line_num, f"{values}, expected an image and its label")
        told = split_of(cells[2])
        if split is not None and told is None:
            _refuse(
                *(file, reader.line_num),
                f"the split {cells[2]!r}, expected {', '.join(SPLIT_NAMES)}",
            )
        yield Row(reader.line_num, cells[0], cells[1], told[0] if told else "")


@dataclass(frozen=True)
class _Index:
    """Paths of files by what a table may call them: none of millions of rows is a search."""

    paths: dict[str, list[str]]
    """By the path."""
    ends: dict[str, list[str]]
    """By each end of the path: the name, with its folder, and so on."""
    stems: dict[str, list[str]]
    """By the name without its suffix."""


def _index(names: Sequence[str]) -> _Index:
    index = _Index(defaultdict(list), defaultdict(list), defaultdict(list))
    for name in names:
        file = PurePosixPath(name)
        index.paths[str(file)].append(name)
        index.stems[file.stem].append(name)
        for end in _ends(file):
            index.ends[end].append(name)
    return index


def _ends(path: PurePosixPath) -> list[str]:
    """The ends of a path, the longest first."""
    parts = path.parts[-_MAX_PARTS:]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _matches(index: _Index, image: str) -> list[str]:
    """The files that an entry of a table can mean; the same path before the same name."""
    given = PurePosixPath(image.replace("\\", "/"))
    alike = [name for end in _ends(given) for name in index.paths.get(end, ())]
    if matches := index.paths.get(str(given)) or index.ends.get(str(given), []) + alike:
        return matches
    if matches := index.ends.get(given.name, []):
        return matches
    candidates = index.stems.get(given.name, [])
    images = [name for name in candidates if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    return images or candidates  # `1` may be 1.jpg beside 1.txt


def _refuse(file: Path, line: int, fault: str) -> NoReturn:
    raise DatasetError(f"{file}, line {line}: {fault}")

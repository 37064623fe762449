"""The central directory of a zip, looked through before `zipfile` makes objects of its entries."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_ENTRY: Final = struct.Struct("<4s24xHHH12x")  # signature; lengths of name, extra field, comment
_MARK: Final = b"PK\1\2"
_ZIP64_MARK: Final = b"PK\6\6"
_ZIP64_BYTES: Final = 76  # of the two records before the last one
_MAX_EXTRA: Final = 4096  # bytes of an entry's extra fields, which zipfile takes the square of
_ALL_EXTRA: Final = 1 << 20  # and of those of all entries
_PER_ENTRY: Final = 256  # and for each of them, on average
_MAX_DIRECTORY: Final = 64 << 20  # bytes that any zip's directory may have, or a half of the file


def check_directory(path: Path, check_count: Callable[[int], None]) -> None:
    """Refuse a directory that takes long to read.

    Args:
        path: of the zip.
        check_count: raises for a number of entries that is too large.

    Raises:
        zipfile.BadZipFile: it is too large, or an entry's extra fields are.
    """
    with path.open("rb") as file:
        end: Any = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # where zipfile looks
        if not end:
            raise zipfile.BadZipFile("File is not a zip file")
        size, place = end[5], end[9] - end[5] - (_ZIP64_BYTES if end[0] == _ZIP64_MARK else 0)
        if size > max(_MAX_DIRECTORY, path.stat().st_size // 2):
            raise zipfile.BadZipFile(f"a directory of {size:,} bytes")
        file.seek(max(0, place))
        directory = file.read(size)
    count = extras = place = 0
    while place + _ENTRY.size <= len(directory):
        mark, name, extra, comment = _ENTRY.unpack_from(directory, place)
        if mark != _MARK:
            break  # zipfile says what is wrong
        count, extras = count + 1, extras + extra
        if extra > _MAX_EXTRA or extras > _ALL_EXTRA + _PER_ENTRY * count:
            raise zipfile.BadZipFile(
                f"an entry with {extra:,} bytes of extra fields, {extras:,} with those before it"
            )
        check_count(count)
        place += _ENTRY.size + name + extra + comment

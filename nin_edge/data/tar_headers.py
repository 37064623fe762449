"""Strict headers of tars: what `tarfile` would read to any length is refused before it does.

Between two members may lie extended headers, with long names and attributes. A few kilobytes,
compressed, become millions of them.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

_MAX_HEADER: Final = 1 << 20  # bytes of the long names and attributes of a member
_PER_MEMBER: Final = 1 << 10  # and of those of all members, for each of them, on average
_MAX_GLOBAL: Final = 1 << 10  # and of attributes of all members, copied for each
_MAX_CHAIN: Final = 8  # extended headers of a member; four are known
_MAX_DIGITS: Final = 64  # tarfile before Python 3.12.6 takes the square of their number
_EXTENDED: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class StrictTar(tarfile.TarFile):
    """A tar with `_StrictHeader`s, whose number and sizes are bounded."""

    _headers = _extended = _global = _depth = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Context in which a header is read, and with an extended one those after it.

        Raises:
            tarfile.ReadError: too many belong to one member.
        """
        self._headers, self._depth = self._headers + 1, self._depth + 1
        if self._depth > _MAX_CHAIN + 1:
            raise tarfile.ReadError(f"a member with more than {_MAX_CHAIN} headers")
        try:
            yield
        finally:
            self._depth -= 1

    def count_extended(self, size: int, *, is_global: bool) -> None:
        """Count the bytes of an extended header before they are read.

        Raises:
            tarfile.ReadError: they are too many.
        """
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes, expected at most {_MAX_HEADER:,}")
        self._extended += size
        self._global += size if is_global else 0
        most = _MAX_HEADER + _PER_MEMBER * self._headers
        if self._extended > most or self._global > _MAX_GLOBAL:
            raise tarfile.ReadError(
                f"long names and attributes of {self._extended:,} bytes, expected at most "
                f"{most:,}, {_MAX_GLOBAL:,} of them global"
            )


class _StrictHeader(tarfile.TarInfo):
    """Treats a torn or missing header as an error; tarfile takes it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no end mark: {error}") from error
        if header.type == tarfile.GNUTYPE_SPARSE:
            header._refuse_sparse()
        return header

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        assert isinstance(tarfile, StrictTar)
        with tarfile.counted():
            return super().fromtarfile(tarfile)

    def _proc_member(self, tar: Any) -> Any:
        """Called for each header, before what belongs to it is read."""
        if self.type in _EXTENDED:
            tar.count_extended(self.size, is_global=self.type == tarfile.XGLTYPE)
        return super()._proc_member(tar)  # type: ignore[misc]  # typeshed lacks it

    def _proc_pax(self, tar: Any) -> Any:
        """Check the records of a pax header, then have tarfile read them again."""
        stream: Any = tar.fileobj
        data: bytes = stream.read(self._block(self.size))  # type: ignore[attr-defined]
        _check_records(data[: self.size])
        stream.buf, stream.pos = data + stream.buf, stream.pos - len(data)
        return super()._proc_pax(tar)  # type: ignore[misc]

    def _refuse_sparse(self, *_: Any) -> None:
        """Refuse a member of which a few bytes can stand for any number of zeros."""
        raise tarfile.ReadError(f"member {self.name!r} is sparse")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


StrictTar.tarinfo = _StrictHeader


def _check_records(data: bytes) -> None:
    """Check that the records of a pax header, `LENGTH KEY=VALUE`, fill it.

    Where they overlap, or have long numbers, tarfile takes the square of the header's length in
    time and memory.

    Raises:
        tarfile.ReadError: they do not.
    """
    place = 0
    while place < len(data):
        length = data[place : place + 8].split(b" ")[0]
        end = place + int(length) if length.isdigit() else 0
        record = data[place:end]
        if not (record.endswith(b"\n") and b"=" in record) or end > len(data):
            raise tarfile.ReadError("a damaged pax header")
        place = end
    if re.search(rb"\d{%d}" % _MAX_DIGITS, data):
        raise tarfile.ReadError(f"a pax header with a number of over {_MAX_DIGITS} digits")

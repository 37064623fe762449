"""Tar and zip archives as sources of files.

An archive is read in place and never unpacked to the disk. Its own checksums are verified to the
end, and members that could reach outside it are refused.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import tarfile
import zipfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

from nin_edge.data.errors import DatasetError
from nin_edge.data.zip_names import member_names
from nin_edge.text import list_some, printable

_logger = logging.getLogger(__name__)

_DECOMPRESSORS: Final[dict[bytes, Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""What decompresses a file that starts with these bytes."""


@dataclass(frozen=True)
class _Archive:
    """What tar and zip share: the stamp, and the refusal of unsafe members."""

    path: Path
    """The archive's file."""

    def stamp(self) -> str:
        """See `Source.stamp`."""
        stat = self.path.stat()
        return f"{self.path.name}\0{stat.st_size}\0{stat.st_mtime_ns}"

    def _check(self, name: str, *, link: bool) -> None:
        if link:
            raise DatasetError(
                f"{self.path}: member {name!r} is a link or a device, "
                "expected only files and folders; refused"
            )
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise DatasetError(
                f"{self.path}: member {name!r} has a path outside the archive; refused"
            )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns what the standard library raises at broken bytes into a `DatasetError`."""
        try:
            yield
        except DatasetError:
            raise
        except Exception as error:  # lzma.LZMAError and zlib.error have no common base
            raise DatasetError(f"{self.path}: a truncated or broken archive ({error})") from error


@dataclass(frozen=True)
class TarArchive(_Archive):
    """A tar, compressed or not."""

    def names(self) -> list[str]:
        """See `Source.names`."""
        return list(_tar_names(self, self.stamp()))

    def read(self, names: Set[str]) -> Iterator[tuple[str, bytes]]:
        """See `Source.read`."""
        with self.members() as members:
            for member, tar in members:
                file = tar.extractfile(member) if member.name in names else None
                if file is not None:
                    yield member.name, file.read()

    @contextmanager
    def members(self) -> Iterator[Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]]:
        """Give the members in their order, then read the file to its end.

        The checksum of a compressed archive lies behind the last member. tarfile would not verify
        it: left to decompress by itself, it takes altered bytes for the content of a member.
        """
        with self._reading(), self.path.open("rb") as packed:
            start = packed.read(6)
            packed.seek(0)
            decompress = next(
                (opener for magic, opener in _DECOMPRESSORS.items() if start.startswith(magic)),
                None,
            )
            with (
                decompress(packed) if decompress else packed as file,
                tarfile.open(
                    fileobj=file, mode="r|", tarinfo=_StrictHeader, bufsize=1 << 18
                ) as tar,
            ):
                yield self._checked(tar)
                while decompress and file.read(1 << 20):
                    pass

    def _checked(self, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        for member in tar:
            self._check(member.name, link=not (member.isfile() or member.isdir()))
            yield member, tar


class _StrictHeader(tarfile.TarInfo):
    """Treats a torn or missing header as an error; tarfile takes it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no end mark: {error}") from error


@lru_cache(maxsize=1)
def _tar_names(archive: TarArchive, stamp: str) -> tuple[str, ...]:
    """Names in an archive with this stamp.

    Kept, because listing decompresses the whole file, and a data set is listed to find out what it
    is and again to read it.
    """
    with archive.members() as members:
        return tuple(sorted({f"{m.name}/" if m.isdir() else m.name for m, _ in members}))


@dataclass(frozen=True)
class ZipArchive(_Archive):
    """A zip."""

    def names(self) -> list[str]:
        """See `Source.names`."""
        return list(_zip_names(self, self.stamp()))

    def read(self, names: Set[str]) -> Iterator[tuple[str, bytes]]:
        """See `Source.read`."""
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            paths, _ = member_names(archive.infolist())
            members = dict(zip(paths, archive.infolist(), strict=True))  # of two, the last
            for name in sorted(names):
                yield name, archive.read(members[name])

    def listed(self) -> tuple[str, ...]:
        """The names, read anew."""
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            names, guessed = member_names(archive.infolist())
            for name, member in zip(names, archive.infolist(), strict=True):
                mode = member.external_attr >> 16
                self._check(member.filename, link=mode & 0o170000 == 0o120000)
                self._check(name, link=False)
        if guessed:
            shown = list_some([name for name in names if not name.isascii()], 3)
            _logger.warning(
                "%s: does not state the encoding of its names, read as %s: %s",
                *(self.path, guessed, printable(shown)),
            )
        return tuple(sorted(set(names)))  # folders end in /


@lru_cache(maxsize=1)
def _zip_names(archive: ZipArchive, stamp: str) -> tuple[str, ...]:
    """Names in an archive with this stamp; kept, so that a warning comes once."""
    return archive.listed()

"""Tar and zip archives as sources of files.

An archive is read in place and never unpacked to the disk. Its own checksums are verified to the
end, and members that could reach outside it are refused. What it may unpack to is bounded: a few
kilobytes can claim, or become, any number of bytes.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from nin_edge.data.errors import DatasetError
from nin_edge.data.tar_headers import StrictTar
from nin_edge.data.xz import XzReader
from nin_edge.data.zip_directory import check_directory
from nin_edge.data.zip_names import member_names
from nin_edge.text import list_some, printable
from nin_edge_runtime.folders import (
    HEAD_BYTES,
    MARKER,
    MARKER_BYTES,
    Listing,
    has_image_suffix,
    list_names,
)

_logger = logging.getLogger(__name__)

_DECOMPRESSORS: Final[dict[bytes, Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": XzReader,
}
"""What decompresses a file that starts with these bytes."""

MAX_MEMBER: Final = 256 << 20
"""Most bytes of a file that is read as a whole, in an archive or a folder."""

MAX_UNPACKED: Final = 4 << 30
"""Bytes that any compressed archive may unpack to; a large one may unpack to more."""

MAX_RATIO: Final = 200
"""Bytes that a compressed archive may unpack to for each of its own."""

MAX_MEMBERS: Final = 20_000
"""Files and folders that any archive may hold; a large one may hold more."""

MAX_SHARE: Final = 100
"""Bytes of a large archive for each of its members, at least."""

_MAX_PATH: Final = 4096  # bytes; the limit of Linux
_MAX_DEPTH: Final = 64  # folders in each other


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
        parts = name.replace("\\", "/").split("/")  # pathlib takes longer than all the rest
        if name.startswith(("/", "\\")) or ".." in parts:
            raise DatasetError(
                f"{self.path}: member {name!r} has a path outside the archive; refused"
            )
        if len(name) > _MAX_PATH or len(parts) > _MAX_DEPTH:
            raise DatasetError(
                f"{self.path}: member {name[:40]!r}... has a path of {len(name):,} characters and "
                f"{len(parts):,} parts, expected at most {_MAX_PATH:,} and {_MAX_DEPTH}; "
                "refused"
            )

    def _check_count(self, count: int) -> None:
        if count > MAX_MEMBERS and count > self.path.stat().st_size // MAX_SHARE:
            raise DatasetError(
                f"{self.path}: more than {count - 1:,} members, expected {MAX_MEMBERS:,}, or one "
                f"for each {MAX_SHARE} bytes of it; refused"
            )

    def _check_size(self, name: str, size: int) -> None:
        if size > MAX_MEMBER:
            raise DatasetError(
                f"{self.path}: member {name!r} has {size:,} bytes, "
                f"expected at most {MAX_MEMBER:,}; refused"
            )

    def _check_total(self, total: int) -> None:
        if total > (limit := max(MAX_UNPACKED, MAX_RATIO * self.path.stat().st_size)):
            raise DatasetError(
                f"{self.path}: unpacks to more than {limit:,} bytes, "
                f"{MAX_UNPACKED:,} or {MAX_RATIO} times its size; refused"
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

    @property
    def listing(self) -> Listing:
        """See `Source.listing`."""
        return _tar_listing(self, self.stamp())

    def read(self, names: Set[str]) -> Iterator[tuple[str, bytes]]:
        """See `Source.read`."""
        return self._contents(names.__contains__)

    def images(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each image by its name, in the archive's order, in one reading of it.

        Raises:
            DatasetError: it is damaged from here on, or refused.
        """

        def wanted(name: str) -> bool:
            return has_image_suffix(name) and not PurePosixPath(name).name.startswith(".")

        return self._contents(wanted)

    def _contents(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each file whose name is wanted, in the archive's order."""
        with self.members() as members:
            for member, tar in members:
                file = tar.extractfile(member) if wanted(member.name) else None
                if file is not None:
                    self._check_size(member.name, member.size)
                    yield member.name, file.read()

    def check_start(self) -> None:
        """Check that this is a tar, by its first header.

        Raises:
            tarfile.TarError, OSError, EOFError: it is none.
        """
        with self._opened(tarfile.BLOCKSIZE):
            pass

    @contextmanager
    def members(self) -> Iterator[Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]]:
        """Give the members in their order, then read the file to its end.

        The checksum of a compressed archive lies behind the last member. tarfile would not verify
        it: left to decompress by itself, it takes altered bytes for the content of a member.
        """
        with self._reading(), self._opened() as (unpacked, tar):
            yield self._checked(tar, compressed=unpacked is not None)
            while unpacked and unpacked.read(1 << 20):
                pass

    @contextmanager
    def _opened(self, buffer: int = 1 << 18) -> Iterator[tuple[_Unpacked | None, tarfile.TarFile]]:
        """The unpacked bytes, if it is compressed, and the tar; only its first header is read."""
        with self.path.open("rb") as packed:
            start = packed.read(6)
            packed.seek(0)
            decompress = next(
                (opener for magic, opener in _DECOMPRESSORS.items() if start.startswith(magic)),
                None,
            )
            with decompress(packed) if decompress else packed as file:
                unpacked = _Unpacked(file, self._check_total) if decompress else None
                stream: Any = unpacked or file  # of which tarfile only calls `read`
                with StrictTar.open(fileobj=stream, mode="r|", bufsize=buffer) as tar:
                    yield unpacked, tar

    def _checked(
        self, tar: tarfile.TarFile, *, compressed: bool
    ) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        end = self.path.stat().st_size
        for count, member in enumerate(tar, 1):
            self._check_count(count)
            self._check(
                member.name, link=member.issparse() or not (member.isfile() or member.isdir())
            )
            if compressed:
                self._check_size(member.name, member.size)
            elif member.offset_data + member.size > end:
                raise tarfile.ReadError(
                    f"member {member.name!r} claims {member.size:,} bytes, beyond the file's end"
                )
            # A stream does not need the earlier members, and there may be millions.
            tar.members = []  # type: ignore[attr-defined]  # typeshed lacks it
            yield member, tar


class _Unpacked:
    """The unpacked bytes of a compressed file, as far as their number is allowed."""

    def __init__(self, file: Any, check: Callable[[int], None]) -> None:
        """Take a file, and what raises for a number of bytes that is too large."""
        self._file, self._check, self._total = file, check, 0

    def read(self, size: int) -> bytes:
        """Up to that many bytes; none at the end."""
        data: bytes = self._file.read(size)
        self._total += len(data)
        self._check(self._total)
        return data


@lru_cache(maxsize=1)
def _tar_listing(archive: TarArchive, stamp: str) -> Listing:
    """What an archive with this stamp holds.

    Kept, because listing decompresses the whole file, and a data set is listed to find out what it
    is and again to read it.
    """
    heads: dict[str, bytes] = {}
    with archive.members() as members:
        for member, tar in members:
            name = f"{member.name}/" if member.isdir() else member.name
            file = None if member.isdir() or has_image_suffix(name) else tar.extractfile(member)
            heads[name] = file.read(_head_bytes(name)) if file else b""
    return list_names(heads, heads.__getitem__)


def _head_bytes(name: str) -> int:
    """How much of a member is read to find out what it is."""
    return MARKER_BYTES if PurePosixPath(name).name == MARKER else HEAD_BYTES


@dataclass(frozen=True)
class ZipArchive(_Archive):
    """A zip."""

    encoding: str | None = None
    """Of the names whose encoding it does not state; guessed if None."""

    @property
    def listing(self) -> Listing:
        """See `Source.listing`."""
        return _zip_listing(self, self.stamp())

    def read(self, names: Set[str]) -> Iterator[tuple[str, bytes]]:
        """See `Source.read`."""
        with self._opened() as archive:
            found = member_names(archive.infolist(), self.encoding)
            by_path = dict(zip(found.paths, archive.infolist(), strict=True))  # of two, the last
            self._check_total(sum(by_path[name].file_size for name in names))
            for name in sorted(names):
                member = by_path[name]
                self._check_size(name, member.file_size)
                self._check_method(name, member)
                yield name, archive.read(member)

    def listed(self) -> Listing:
        """What is in it, read anew."""
        with self._opened() as archive:
            try:
                found = member_names(archive.infolist(), self.encoding)
            except UnicodeDecodeError as error:
                raise DatasetError(
                    f"{self.path}: the name {error.object!r} is not {self.encoding}, expected the "
                    "encoding of the archive's names"
                ) from error
            names = found.paths
            members = dict(zip(names, archive.infolist(), strict=True))
            for name, member in zip(names, archive.infolist(), strict=True):
                mode = member.external_attr >> 16
                self._check(member.filename, link=mode & 0o170000 == 0o120000)
                self._check(name, link=False)

            def head(name: str) -> bytes:
                self._check_method(name, members[name])
                with archive.open(members[name]) as file:
                    return file.read(_head_bytes(name))

            listing = list_names(names, head)
        if found.guessed:
            shown = list_some([name for name in names if not name.isascii()], 3)
            others = [f"{name} if {encoding}" for encoding, name in found.others.items()]
            _logger.warning(
                "%s: does not state the encoding of its names, read as %s: %s; --zip-encoding %s",
                *(self.path, found.guessed, printable(shown)),
                f"names another ({printable(', '.join(others))})" if others else "names another",
            )
        return listing

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        with self._reading():
            check_directory(self.path, self._check_count)
            with zipfile.ZipFile(self.path) as archive:
                yield archive

    def _check_method(self, name: str, member: zipfile.ZipInfo) -> None:
        """Refuse other methods: their decompressors give all bytes at once, for any claimed size.

        Raises:
            DatasetError: the member is compressed by another method than deflate.
        """
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetError(
                f"{self.path}: member {name!r} is compressed by method {member.compress_type}, "
                "expected deflate"
            )


@lru_cache(maxsize=1)
def _zip_listing(archive: ZipArchive, stamp: str) -> Listing:
    """What an archive with this stamp holds; kept, so that a warning comes once."""
    return archive.listed()

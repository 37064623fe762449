"""Tar and zip archives as sources of files.

An archive is read in place and never unpacked to the disk. Its own checksums are verified to the
end, and members that could reach outside it are refused.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

from nin_edge.data.errors import DatasetError
from nin_edge_runtime.folders import HEAD_BYTES, MARKER, Listing, has_image_suffix, list_names

_DECOMPRESSORS: Final[dict[bytes, Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""What decompresses a file that starts with these bytes."""

_MARKER_BYTES: Final = 1 << 20  # nin-edge's own list of files is shorter


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
        if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts:
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

    @property
    def listing(self) -> Listing:
        """See `Source.listing`."""
        return _tar_listing(self, self.stamp())

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
    return _MARKER_BYTES if PurePosixPath(name).name == MARKER else HEAD_BYTES


@dataclass(frozen=True)
class ZipArchive(_Archive):
    """A zip."""

    @cached_property
    def listing(self) -> Listing:
        """See `Source.listing`."""
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                mode = member.external_attr >> 16
                self._check(member.filename, link=mode & 0o170000 == 0o120000)

            def head(name: str) -> bytes:
                with archive.open(name) as file:
                    return file.read(_head_bytes(name))

            return list_names({member.filename for member in archive.infolist()}, head)

    def read(self, names: Set[str]) -> Iterator[tuple[str, bytes]]:
        """See `Source.read`."""
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            for name in sorted(names):
                yield name, archive.read(name)

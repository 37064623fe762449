"""Folders and archives as sources of files: what is in them, and their bytes.

An archive is read in place and never unpacked. Its own checksums are checked to the end, and
members that could reach outside it are refused.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, Self

from nin_edge_runtime.errors import NinEdgeError

_DECOMPRESSORS: Final[dict[bytes, Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""How a file that starts with these bytes is unpacked."""


class DatasetError(NinEdgeError, ValueError):
    """A folder or archive that cannot be trained on; the message names it and says why."""


class Source(Protocol):
    """A folder or archive: what is in it, and its bytes."""

    def names(self) -> list[str]:
        """Paths of the files, and those of folders with a slash at their end; sorted."""

    def stamp(self) -> str:
        """Text that changes whenever a file's name, size or time does."""

    def read(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        """The named files' bytes; of a file that a tar holds twice, both, the last one later."""


@dataclass(frozen=True)
class _Folder:
    path: Path

    def _entries(self) -> list[tuple[str, os.stat_result]]:
        """Names with their status, sorted; those of folders end with a slash."""
        found, pending, seen = [], deque([self.path]), set()
        while pending:
            folder = pending.popleft()
            if (real := folder.resolve()) in seen:
                continue  # a link that leads back up
            seen.add(real)
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = os.path.relpath(entry.path, self.path)
                    if entry.is_dir():
                        pending.append(Path(entry.path))
                        found.append((f"{name}/", entry.stat()))
                    elif entry.is_file():
                        found.append((name, entry.stat()))
        return sorted(found, key=lambda item: item[0])

    def names(self) -> list[str]:
        return [name for name, _ in self._entries()]

    def stamp(self) -> str:
        # A folder's own time changes with whatever is put beside the images: its name is enough.
        return "".join(
            name if name.endswith("/") else f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            for name, stat in self._entries()
        )

    def read(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        for name in sorted(names):
            try:
                yield name, (self.path / name).read_bytes()
            except OSError:
                yield name, b""  # reported as unreadable with the others


@dataclass(frozen=True)
class _Archive:
    """What tar and zip share: the stamp, and the refusal of members that could reach outside."""

    path: Path

    def stamp(self) -> str:
        stat = self.path.stat()
        return f"{self.path.name}\0{stat.st_size}\0{stat.st_mtime_ns}"

    def _check(self, name: str, *, link: bool) -> None:
        if link:
            raise DatasetError(
                f"{self.path}: member {name!r} is a link or a device, "
                "expected files and folders alone; refused"
            )
        if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DatasetError(f"{self.path}: member {name!r} climbs out of the archive; refused")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except DatasetError:
            raise
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            EOFError,
            OSError,
            RuntimeError,
            ValueError,
        ) as error:
            raise DatasetError(f"{self.path}: a truncated or broken archive ({error})") from error
        except Exception as error:  # lzma.LZMAError, zlib.error: no common base
            raise DatasetError(f"{self.path}: a truncated or broken archive ({error})") from error


class _StrictHeader(tarfile.TarInfo):
    """A torn or missing header is an error; tarfile itself would take it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no end mark: {error}") from error


@dataclass(frozen=True)
class _Tar(_Archive):
    @contextmanager
    def _members(self) -> Iterator[Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]]:
        """The members, in their order; what follows the last one is read to the end as well.

        Behind it lies the checksum of a compressed archive. tarfile would not look at it: left to
        unpack by itself, it takes altered bytes for the members' own.
        """
        with self._reading(), self.path.open("rb") as packed:
            start = packed.read(6)
            packed.seek(0)
            unpack = next((f for mark, f in _DECOMPRESSORS.items() if start.startswith(mark)), None)
            with (
                unpack(packed) if unpack else packed as file,
                tarfile.open(
                    fileobj=file, mode="r|", tarinfo=_StrictHeader, bufsize=1 << 18
                ) as tar,
            ):
                yield self._checked(tar)
                while unpack and file.read(1 << 20):
                    pass

    def _checked(self, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        for member in tar:
            self._check(member.name, link=not (member.isfile() or member.isdir()))
            yield member, tar

    def names(self) -> list[str]:
        with self._members() as members:
            return sorted({f"{m.name}/" if m.isdir() else m.name for m, _ in members})

    def read(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        with self._members() as members:
            for member, tar in members:
                file = tar.extractfile(member) if member.name in names else None
                if file is not None:
                    yield member.name, file.read()


@dataclass(frozen=True)
class _Zip(_Archive):
    def names(self) -> list[str]:
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                mode = member.external_attr >> 16
                self._check(member.filename, link=mode & 0o170000 == 0o120000)
            return sorted({member.filename for member in archive.infolist()})  # folders end in /

    def read(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            for name in sorted(names):
                yield name, archive.read(name)


def open_source(path: Path) -> Source:
    """A folder or archive, whichever it is by its content.

    Raises:
        DatasetError: nothing is there, or neither.
    """
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise DatasetError(
            f"{path}: no such file or folder, expected a folder or archive of labelled images"
        )
    if zipfile.is_zipfile(path):
        return _Zip(path)
    try:
        with tarfile.open(path, "r|*"):
            return _Tar(path)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DatasetError(
            f"{path}: neither a folder nor a readable .tar (.gz, .bz2, .xz) or .zip ({error})"
        ) from error

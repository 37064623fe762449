"""Folders and archives as sources of files: their names and their bytes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from nin_edge.data.archives import MAX_MEMBER, TarArchive, ZipArchive
from nin_edge.data.errors import DatasetError
from nin_edge_runtime import ImageError
from nin_edge_runtime.folders import Listing, list_folder, read_start


class Source(Protocol):
    """A folder or archive that images are read from."""

    @property
    def listing(self) -> Listing:
        """Its files and folders, and which of the files are images."""

    def stamp(self) -> str:
        """Text that changes whenever the name, size or time of a file does."""

    def read(self, names: Set[str]) -> Iterator[tuple[str, bytes | ImageError]]:
        """Name and bytes of the chosen files; duplicate members of a tar come twice.

        Raises:
            DatasetError: one cannot be read.
        """


@dataclass(frozen=True)
class Folder:
    """A folder with everything below it."""

    path: Path
    """The folder."""

    @cached_property
    def listing(self) -> Listing:
        """See `Source.listing`."""
        return list_folder(self.path)

    def stamp(self) -> str:
        """See `Source.stamp`."""
        # Unrelated files change a folder's time: its name is enough. What cannot be read may have
        # no status, and its time stays the same once it can be.
        unreadable = dict(self.listing.unreadable)
        return "".join(
            f"{name}{unreadable.get(name, '')}"
            if name.endswith("/") or name in unreadable
            else _stamp(self.path, name)
            for name in self.listing.names
        )

    def read(self, names: Set[str]) -> Iterator[tuple[str, bytes | ImageError]]:
        """See `Source.read`."""
        for name in sorted(names):
            try:
                data = read_start(self.path / name, MAX_MEMBER + 1)
            except OSError as error:  # no fault of the image, which would be kept as one
                reason = error.strerror or error
                raise DatasetError(f"{self.path / name}: cannot be read ({reason})") from error
            too_large = ImageError(f"more than {MAX_MEMBER:,} bytes")
            yield name, data if len(data) <= MAX_MEMBER else too_large


def open_source(path: Path, zip_encoding: str | None = None) -> Source:
    """Open a folder or an archive; the content of the file decides, not its name.

    Args:
        path: of the folder or archive.
        zip_encoding: of the names in a zip that does not state it; guessed if None.

    Raises:
        DatasetError: nothing is there, or it is neither a folder nor an archive.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise DatasetError(
            f"{path}: no such file or folder, expected a folder or archive of labelled images"
        )
    if not path.is_file():
        raise DatasetError(f"{path}: a pipe, socket or device, expected a folder or an archive")
    if zipfile.is_zipfile(path):
        return ZipArchive(path, zip_encoding)
    archive = TarArchive(path)
    try:
        archive.check_start()
        return archive
    except DatasetError:
        raise
    except Exception as error:  # lzma.LZMAError and zlib.error have no common base
        raise DatasetError(
            f"{path}: neither a folder nor a readable .tar (.gz, .bz2, .xz) or .zip ({error})"
        ) from error


def _stamp(folder: Path, name: str) -> str:
    """Name, size and time of a file."""
    stat = os.stat(f"{folder}/{name}")  # noqa: PTH116  # a Path of each takes longer than its status
    return f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"

"""What DATA means: images in a folder or archive, or an official data set, by path or by name.

This is decided once: everything after `locate` takes the `Location` that it gives.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from nin_edge.data.cache_folder import cache_errors, default_cache
from nin_edge.data.errors import DatasetError
from nin_edge.data.official.registry import (
    ARCHIVES,
    NATIVE_SHAPES,
    OFFICIAL,
    find_files,
    is_one_of_several,
    recognise,
)
from nin_edge.data.sources import Source, open_source
from nin_edge.data.table import read_bytes
from nin_edge.files import write_atomically
from nin_edge.text import as_utf8, is_utf8
from nin_edge_runtime.folders import read_start
from nin_edge_runtime.model_file.strict_json import JsonObject

FOLDER: Final = "folder"
"""In place of a key of `OFFICIAL`: DATA is a folder of images, whatever else lies in it."""

LARGEST_TEST_SPLIT: Final = 0.9
"""Largest part of the training images that can become the test split."""

DownloadProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of a file, the bytes of it that are there, and its length."""


@dataclass(frozen=True)
class Location:
    """A data set on this machine, and what it is."""

    path: Path
    """Folder or archive to read."""
    name: str
    """Name of the data set: that of the folder or archive, without its endings."""
    official: str | None
    """Which official data set it is, a key of `OFFICIAL`; None for a folder of images."""
    labels: Path | None = None
    """Table of the images' classes (`nin_edge.data.table`); None if their folders name them."""
    test_split: float | None = None
    """Part of each class's training images that becomes the test split; None: as the data say."""
    zip_encoding: str | None = None
    """Encoding of the names in a zip that does not state it; None: guessed."""

    @property
    def native_shape(self) -> tuple[int, int] | None:
        """Side and channels of an official data set's images; None for a folder of images."""
        return None if self.official is None else NATIVE_SHAPES[self.official]

    def decided(self) -> str:
        """Everything but the files that decides what the data set is, as one text.

        Raises:
            DatasetError: the table cannot be read.
        """
        table = None if self.labels is None else hashlib.sha256(read_bytes(self.labels)).hexdigest()
        return f"{self.official} {table} {self.test_split} {self.zip_encoding}"

    def absolute(self) -> Location:
        """The location with absolute paths, which a run's configuration can have.

        Raises:
            DatasetError: a path is not UTF-8.
        """
        table = self.labels and self.labels.absolute()
        for path in (self.path.absolute(), table):
            if path and not is_utf8(str(path)):
                raise DatasetError(f"{path}: not in UTF-8, as a run's configuration has its paths")
        return replace(self, path=self.path.absolute(), labels=table)

    def to_json(self) -> dict[str, Any]:
        """The location as JSON can represent it."""
        stored = {name: value for name, value in asdict(self).items() if value is not None}
        paths = {"path": str(self.path)} | ({"labels": str(self.labels)} if self.labels else {})
        return {"official": None, **stored, **paths}

    @classmethod
    def from_json(cls, stored: object) -> Location:
        """Read what `to_json` gives.

        Raises:
            ValueError, KeyError: it is something else.
        """
        fields = JsonObject("location", stored)
        labels = fields.optional_string("labels")
        return cls(
            path=Path(fields.string("path")),
            name=fields.string("name"),
            official=fields.optional_string("official"),
            labels=None if labels is None else Path(labels),
            test_split=fields.optional_number("test_split"),
            zip_encoding=fields.optional_string("zip_encoding"),
        )


def locate(
    data: str | os.PathLike[str],
    *,
    official: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    test_split: float | None = None,
    zip_encoding: str | None = None,
    download: bool = False,
    cache: Path | None = None,
    progress: DownloadProgress | None = None,
) -> Location:
    """Find a data set, and find out what it is.

    Args:
        data: a folder or an archive; or the name of an official data set, a key of `OFFICIAL`.
        official: the expected data set: a key of `OFFICIAL`, or `FOLDER` for a folder of images.
            Detected from its content if None. If given, the files are checked when read.
        labels: table of the images' classes, a CSV file with the columns image and label; their
            folders name them if None.
        test_split: part of each class's training images that becomes the test split, above 0 to
            0.9, for data without one; a fifth where the data name no split, if None.
        zip_encoding: encoding of the names in a zip that does not state it, such as `cp949`;
            guessed if None.
        download: fetch an official data set that is not there: to the cache if `data` is a name, to
            the folder `data` otherwise.
        cache: folder of the caches and downloads; `default_cache()` if None.
        progress: called with how the download goes.

    Raises:
        DatasetError: nothing is there, it could be several things, it is incomplete; or no official
            data set is named for a download; or a table or a test split for an official data set;
            or an unknown encoding, or one for what is no zip.
        DownloadError: the download failed, or a file there is not the published one.
    """
    path, cache = Path(data), cache or default_cache()
    if official not in (None, FOLDER, *OFFICIAL):
        expected = ", ".join((FOLDER, *OFFICIAL))
        raise DatasetError(f"no such data set: {official!r}, expected one of {expected}")
    if test_split is not None and not 0 < test_split <= LARGEST_TEST_SPLIT:
        raise DatasetError(f"test_split is {test_split}: expected above 0, to {LARGEST_TEST_SPLIT}")
    named = str(path) if str(path) in OFFICIAL and not path.exists() else None
    if named:
        if official not in (None, named):
            raise DatasetError(f"{path}: the name of {OFFICIAL[named]}, not of {official}")
        official = named
    if download:
        with cache_errors(cache):
            _download(path, official, _downloads(named, cache) if named else path, progress)
    place = _downloaded(named, cache) if named else _archive_in(path, official) or path
    if place.is_file() and is_one_of_several(place.name):
        raise DatasetError(f"{place}: one file of a data set, expected the folder that it lies in")
    if zip_encoding is not None:
        _check_zip_encoding(place, zip_encoding)
    source = open_source(place, zip_encoding)
    table = None if labels is None else Path(labels)
    if official is None and table is None:
        official = _recognise(place, source, cache)
    if official not in (None, FOLDER) and (table or test_split):
        raise DatasetError(
            f"{path}: {OFFICIAL[official]} has labels and a test split of its own, expected "
            f"{'a table of labels' if table else 'test_split'} for a folder of images alone"
        )
    return Location(
        *(place, dataset_name(path), None if official == FOLDER else official),
        labels=table,
        test_split=test_split,
        zip_encoding=zip_encoding,
    )


def dataset_name(path: Path) -> str:
    """Name of a folder or archive, the latter without its endings."""
    name = as_utf8(path.resolve().name)
    return name if path.is_dir() else re.sub(r"(\.tar)?\.(tar|tgz|gz|bz2|xz|zip)$", "", name)


def _check_zip_encoding(place: Path, encoding: str) -> None:
    """Refuse what is no encoding, or has no names to read.

    Raises:
        DatasetError: the message names the path or the encoding.
    """
    try:
        b"a".decode(encoding)
    except (LookupError, ValueError):
        raise DatasetError(
            f"zip_encoding is {encoding!r}: expected an encoding that Python knows, such as cp949"
        ) from None
    if place.exists() and not zipfile.is_zipfile(place):
        raise DatasetError(f"{place}: not a zip, expected one with zip_encoding {encoding}")


def _downloads(official: str, cache: Path) -> Path:
    """Folder of the official data set that is opened by its name."""
    return cache / "downloads" / official


def _downloaded(official: str, cache: Path) -> Path:
    """The folder or archive that a name means."""
    folder = _downloads(official, cache)
    if not _holds(folder, official):
        raise DatasetError(
            f"{official}: no such file or folder, and {OFFICIAL[official]} is not in {folder}; "
            "nin-edge train or eval with --download fetches it"
        )
    return _archive_in(folder, official) or folder


def _archive_in(folder: Path, official: str | None) -> Path | None:
    """The published archive that a folder stands for.

    Raises:
        DatasetError: it holds archives of several data sets.
    """
    if not folder.is_dir() or official == FOLDER:
        return None
    archives = {
        ARCHIVES[name]: folder / name
        for name in reversed(ARCHIVES)  # of two forms the one listed first wins
        if (folder / name).is_file() and official in (None, ARCHIVES[name])
    }
    if len(archives) > 1:
        titles = " and ".join(OFFICIAL[name] for name in archives)
        raise DatasetError(f"{folder}: holds {titles}; say which by --dataset, or name one file")
    return next(iter(archives.values()), None)


def _holds(folder: Path, official: str) -> bool:
    """Whether a folder has an official data set in it, as its archive or unpacked."""
    if not folder.is_dir():
        return False
    if any(ARCHIVES.get(entry.name) == official for entry in folder.iterdir()):
        return True
    try:
        find_files(folder, open_source(folder).listing.names, official)
    except DatasetError:
        return False  # some of its files, or none
    return True


def _download(
    path: Path, official: str | None, folder: Path, progress: DownloadProgress | None
) -> None:
    """Fetch an official data set to a folder, unless it is there."""
    from nin_edge.data import download  # urllib takes time to import, and few runs need it

    if official is None or official == FOLDER:
        raise DatasetError(
            f"{path}: which data set to download is not said, expected one of "
            f"{', '.join(OFFICIAL)} as DATA or by --dataset"
        )
    if path.is_file():
        return  # an archive that is here already
    files = download.CATALOGUE[official]
    started = any((folder / remote.name).exists() for remote in files)
    if started or not _holds(folder, official):  # another published form is accepted
        download.download(files, folder, progress=progress)


def _recognise(place: Path, source: Source, cache: Path) -> str | None:
    """Which official data set lies there; None for a folder of images."""
    if place.is_dir():
        return _recognise_names(place, source)
    if place.name in ARCHIVES:
        return ARCHIVES[place.name]
    # Listing a compressed archive takes seconds: the result is cached.
    key = hashlib.sha256(f"{place.resolve()}\0{source.stamp()}".encode("utf-8", "surrogateescape"))
    record = cache / "recognised" / key.hexdigest()[:20]
    with suppress(OSError, ValueError):  # none, or a damaged one
        if (known := read_start(record, 99).decode()) in (FOLDER, *OFFICIAL):
            return known
    official = _recognise_names(place, source)
    with suppress(OSError):  # if it cannot be written, the next call is only slower
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, (official or FOLDER).encode())
    return official


def _recognise_names(place: Path, source: Source) -> str | None:
    listing = source.listing
    return recognise(place, listing.names, has_images=bool(listing.images))

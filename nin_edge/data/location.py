"""What DATA means: images in a folder or archive, or an official data set, by path or by name.

This is decided once: everything after `locate` takes the `Location` that it gives.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from nin_edge.data.cache import default_cache
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
from nin_edge.files import write_atomically

FOLDER: Final = "folder"
"""In place of a key of `OFFICIAL`: DATA is a folder of images, whatever else lies in it."""

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

    @property
    def native_shape(self) -> tuple[int, int] | None:
        """Side and channels of an official data set's images; None for a folder of images."""
        return None if self.official is None else NATIVE_SHAPES[self.official]


def locate(
    data: str | os.PathLike[str],
    *,
    official: str | None = None,
    download: bool = False,
    cache: Path | None = None,
    progress: DownloadProgress | None = None,
) -> Location:
    """Find a data set, and find out what it is.

    Args:
        data: a folder or an archive; or the name of an official data set, a key of `OFFICIAL`.
        official: what it has to be: a key of `OFFICIAL`, or `FOLDER` for a folder of images. Found
            by looking into it if None. Where given, the files are checked when they are read.
        download: fetch an official data set that is not there: to the cache if `data` is a name, to
            the folder `data` otherwise.
        cache: folder of the caches and downloads; `default_cache()` if None.
        progress: told how the download goes.

    Raises:
        DatasetError: nothing is there, it could be several things, it is incomplete; or no official
            data set is named for a download.
        DownloadError: the download failed, or a file there is not the published one.
    """
    path, cache = Path(data), cache or default_cache()
    if official not in (None, FOLDER, *OFFICIAL):
        expected = ", ".join((FOLDER, *OFFICIAL))
        raise DatasetError(f"no such data set: {official!r}, expected one of {expected}")
    named = str(path) if str(path) in OFFICIAL and not path.exists() else None
    if named:
        if official not in (None, named):
            raise DatasetError(f"{path}: the name of {OFFICIAL[named]}, not of {official}")
        official = named
    if download:
        _download(path, official, _downloads(named, cache) if named else path, progress)
    place = _downloaded(named, cache) if named else _archive_in(path, official) or path
    if place.is_file() and is_one_of_several(place.name):
        raise DatasetError(f"{place}: one file of a data set, expected the folder that it lies in")
    source = open_source(place)
    if official is None:
        official = _recognise(place, source, cache)
    return Location(place, dataset_name(path), None if official == FOLDER else official)


def dataset_name(path: Path) -> str:
    """Name of a folder or archive, the latter without its endings."""
    name = path.resolve().name
    return name if path.is_dir() else re.sub(r"(\.tar)?\.(tar|tgz|gz|bz2|xz|zip)$", "", name)


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
    if started or not _holds(folder, official):  # in another form it will do
        download.download(files, folder, progress=progress)


def _recognise(place: Path, source: Source, cache: Path) -> str | None:
    """Which official data set lies there; None for a folder of images."""
    if place.is_dir():
        return _recognise_names(place, source)
    if place.name in ARCHIVES:
        return ARCHIVES[place.name]
    # Listing a compressed archive takes seconds: the answer is written down.
    key = hashlib.sha256(f"{place.resolve()}\0{source.stamp()}".encode("utf-8", "surrogateescape"))
    record = cache / "recognised" / key.hexdigest()[:20]
    if record.is_file() and (known := record.read_text("utf-8")) in (FOLDER, *OFFICIAL):
        return known
    official = _recognise_names(place, source)
    with suppress(OSError):  # no room for it: the next time is slower, that is all
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, (official or FOLDER).encode())
    return official


def _recognise_names(place: Path, source: Source) -> str | None:
    listing = source.listing
    return recognise(place, listing.names, has_images=bool(listing.images))

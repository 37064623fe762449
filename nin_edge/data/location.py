"""What DATA means, resolved once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nin_edge.data import datasets
from nin_edge.data.datasets import Dataset, Progress
from nin_edge.data.official.formats import SHAPES, TITLES
from nin_edge.data.sources import DatasetError

FOLDER = "folder"
OFFICIAL = TITLES


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
        return None if self.official is None else SHAPES[self.official]


def locate(
    data: str | os.PathLike[str],
    *,
    official: str | None = None,
    download: bool = False,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Location:
    """Find a data set, and find out what it is."""
    path, cache = Path(data), cache or datasets.default_cache()
    if official not in (None, FOLDER, *OFFICIAL):
        expected = ", ".join((FOLDER, *OFFICIAL))
        raise DatasetError(f"no such data set: {official!r}, expected one of {expected}")
    name = datasets.dataset_name(path)
    if download:
        datasets.fetch(path, official, cache=cache, progress=progress)
    kind = datasets._named_kind(path, official)
    place = datasets._locate(path, kind, cache)
    if kind is None:
        source = datasets.open_source(place)
        match = datasets._find_official(place, source.names(), None)
        kind = match.kind if match else FOLDER
    return Location(place, name, None if kind == FOLDER else kind)


def open_dataset(
    data: Location | str | os.PathLike[str],
    *,
    size: int,
    channels: int = 3,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set, decoding it if no valid cache of it exists."""
    location = data if isinstance(data, Location) else locate(data, cache=cache)
    return datasets.open_dataset(
        location.path,
        size=size,
        channels=channels,
        kind=location.official or FOLDER,
        cache=cache,
        workers=workers,
        progress=progress,
    )

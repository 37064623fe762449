"""What is scored: the input as shards, each of which becomes one file of the output.

A shard is small text, so that it can be sent to another process, and always gives the same images
in the same order. What cannot be read is an error in an image's place, and never the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from nin_edge.data import DatasetError
from nin_edge.data.archives import TarArchive
from nin_edge.text import without_name
from nin_edge_runtime import ImageError


@dataclass(frozen=True)
class Item:
    """One image of a shard."""

    path: str
    """Its name in the output."""
    image: Path | bytes | ImageError
    """What is classified, or the reason why there is nothing."""


class Shard(Protocol):
    """Images whose predictions go into one file."""

    def items(self, source: Path) -> Iterator[Item]:
        """Its images in their order.

        Args:
            source: the input's folder, or the folder of its file.
        """


@dataclass(frozen=True)
class FolderShard:
    """Some images of a folder."""

    names: tuple[str, ...]
    """Their paths below it."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why some of them cannot be read, by path."""

    def items(self, source: Path) -> Iterator[Item]:
        """See `Shard.items`."""
        for name in self.names:
            reason = self.unreadable.get(name)
            yield Item(name, source / name if reason is None else ImageError(reason))


@dataclass(frozen=True)
class TarShard:
    """All images of a tar, such as a shard of WebDataset."""

    file: str
    """Path of the tar below the input's folder."""

    def items(self, source: Path) -> Iterator[Item]:
        """See `Shard.items`."""
        found = False
        try:
            for name, data in TarArchive(source / self.file).images():
                found = True
                yield Item(f"{self.file}/{name}", data)
        except DatasetError as error:
            yield Item(self.file, ImageError(without_name(error, source / self.file)))
        else:
            if not found:
                yield Item(self.file, ImageError("a tar without images, such as 0001.jpg"))


@dataclass(frozen=True)
class ParquetShard:
    """Some rows of a Parquet file."""

    file: str
    """Path of the file below the input's folder."""
    column: str
    """The column of the images' bytes."""
    start: int = 0
    """The first row."""
    stop: int | None = None
    """The first row behind; None for all of a file that could not be read."""

    def items(self, source: Path) -> Iterator[Item]:
        """See `Shard.items`."""
        from nin_edge.score.parquet import read_rows

        for row, image in read_rows(source / self.file, self.column, self.start, self.stop):
            yield Item(self.file if row is None else f"{self.file}#{row}", image)


_FORMS: Final = {"images": FolderShard, "parquet": ParquetShard, "tar": TarShard}


def to_text(shard: Shard) -> str:
    """A shard as one line of text; names of any bytes survive it."""
    form = next(name for name, form in _FORMS.items() if isinstance(shard, form))
    return json.dumps({"form": form} | vars(shard))


def from_text(text: str) -> Shard:
    """The shard of a text from `to_text`."""
    fields: dict[str, Any] = json.loads(text)
    if names := fields.get("names"):
        fields["names"] = tuple(names)
    shard: Shard = _FORMS[fields.pop("form")](**fields)
    return shard

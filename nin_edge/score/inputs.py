"""What IN is: a folder of images, Parquet files, or tars; and which shards it gives."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nin_edge.score.shards import FolderShard, ParquetShard, Shard, TarShard
from nin_edge_runtime import NinEdgeError
from nin_edge_runtime.folders import list_folder, read_start

_TARS: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PARQUET: Final = ".parquet"
_MAGIC: Final = b"PAR1"

_EXPECTED: Final = "expected a folder of images, Parquet files (.parquet) or tars (.tar)"


@dataclass(frozen=True)
class Input:
    """An input, in shards."""

    source: Path
    """The folder that the shards' names are below."""
    form: str
    """`images`, `parquet` or `tar`."""
    files: int
    """Number of its files."""
    digest: str
    """SHA-256 of their names, sizes and times of change, in hexadecimal."""
    shards: Sequence[Shard]
    """What each file of the output has, in order."""
    column: str | None = None
    """The column of a Parquet file's images."""
    passed_over: str = ""
    """What else is in the folder, in words."""

    def to_json(self) -> dict[str, Any]:
        """What identifies it."""
        return {"form": self.form, "files": self.files, "sha256": self.digest}


def open_input(path: Path, *, column: str | None, rows: int) -> Input:
    """Find out what is there, and divide it.

    Args:
        path: of a folder, or of a Parquet file or a tar.
        column: the column of a Parquet file's images; the only one of bytes if None.
        rows: images of a shard; a tar is one shard, whatever it has.

    Raises:
        NinEdgeError: nothing of the kind is there, or several kinds are, or a column is missing.
    """
    if not path.exists():
        raise NinEdgeError(f"{path}: no such file or folder, {_EXPECTED}")
    found = _open_folder(path, column, rows) if path.is_dir() else _open_file(path, column, rows)
    if column and found.column is None:
        raise NinEdgeError(
            f"{path}: no column {column!r}, expected Parquet files, which have columns"
        )
    return found


def _open_folder(path: Path, column: str | None, rows: int) -> Input:
    listing = list_folder(path)
    files = [name for name in listing.names if not name.endswith("/")]
    parquet = [name for name in files if name.lower().endswith(_PARQUET)]
    tars = [name for name in files if name.lower().endswith(_TARS)]
    unreadable = dict(listing.unreadable)
    images = [*listing.images_by_folder(), *unreadable] if not (parquet or tars) else []
    counts = {"Parquet files": len(parquet), "tars": len(tars), "images": len(listing.images)}
    if len(several := [f"{count:,} {kind}" for kind, count in counts.items() if count]) > 1:
        raise NinEdgeError(
            f"{path}: has {' and '.join(several)}, expected one kind; name the folder of one"
        )
    if parquet or tars:
        opened = _open_parquet(path, parquet, column, rows) if parquet else _open_tars(path, tars)
        return _with_lost(opened, parquet or tars, unreadable | _links_to_nothing(path))
    if not images:
        raise NinEdgeError(f"{path}: nothing to score in it, {_EXPECTED}")
    parts = (tuple(images[start : start + rows]) for start in range(0, len(images), rows))
    shards = [
        FolderShard(names, {name: unreadable[name] for name in names if name in unreadable})
        for names in parts
    ]
    passed = listing.passed_over()
    return Input(path, "images", len(images), _digest(path, images), shards, passed_over=passed)


def _links_to_nothing(folder: Path) -> dict[str, str]:
    """The Parquet files and tars in a folder that are not there, with the reason."""
    links = (
        link.relative_to(folder)
        for link in sorted(folder.rglob("*"))
        if link.name.lower().endswith((_PARQUET, *_TARS)) and not link.exists()
    )
    return {
        link.as_posix(): "a link to nothing"
        for link in links
        if not any(part.startswith(".") for part in link.parts)  # such as Hugging Face's .cache
    }


def _with_lost(opened: Input, files: Sequence[str], lost: dict[str, str]) -> Input:
    """The input with a shard of errors, for what could not be read of a folder of files."""
    if not lost:
        return opened
    return replace(
        opened,
        files=len(files) + len(lost),
        digest=_digest(opened.source, [*files, *lost]),
        shards=[*opened.shards, FolderShard(tuple(lost), lost)],
    )


def _open_file(path: Path, column: str | None, rows: int) -> Input:
    if not path.is_file():
        raise NinEdgeError(f"{path}: a pipe, socket or device, {_EXPECTED}")
    if read_start(path, len(_MAGIC)) == _MAGIC or path.suffix.lower() == _PARQUET:
        return _open_parquet(path.parent, [path.name], column, rows)
    from nin_edge.data.archives import TarArchive

    try:
        TarArchive(path).check_start()
    except OSError as error:
        if error.errno is not None:
            raise
        raise NinEdgeError(f"{path}: {_EXPECTED}") from error
    except Exception as error:  # tarfile's, and those of each decompressor
        raise NinEdgeError(f"{path}: {_EXPECTED}") from error
    return _open_tars(path.parent, [path.name])


def _open_tars(source: Path, names: Sequence[str]) -> Input:
    digest = _digest(source, names)
    return Input(source, "tar", len(names), digest, [TarShard(name) for name in names])


def _open_parquet(source: Path, names: Sequence[str], column: str | None, rows: int) -> Input:
    from nin_edge.score.parquet import choose_column, look_into

    contents = {name: look_into(source / name) for name in names}
    readable = [(name, found) for name, found in contents.items() if found is not None]
    if not readable:
        raise NinEdgeError(f"{source / names[0]}: not a readable Parquet file")
    # The first file that has the column decides; one without it is an error in the output.
    name, found = next(
        (one for one in readable if (column in one[1].images if column else one[1].images)),
        readable[0],
    )
    column = choose_column(source / name, found, column)
    shards = [
        ParquetShard(name, column, *bounds)
        for name, found in contents.items()
        for bounds in (
            _bounds(found.rows, rows) if found and column in found.images else [(0, None)]
        )
    ]
    return Input(source, "parquet", len(names), _digest(source, names), shards, column)


def _bounds(total: int, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows; one, which is empty, of a file without any."""
    for start in range(0, max(total, 1), rows):
        yield start, min(start + rows, total)


def _digest(source: Path, names: Iterable[str]) -> str:
    """Changes whenever the name, size or time of a file does."""
    digest = hashlib.sha256()
    for name in names:
        try:
            stat = os.stat(f"{source}/{name}")  # noqa: PTH116  # a Path of each takes longer
            state = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError:
            state = "unreadable"
        digest.update(f"{name}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

"""The folder of the output: one Parquet file for each shard, and what they were made from.

A file is there when it is complete, so a second run makes those that are missing. A manifest keeps
that run from mixing two models, inputs or settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from nin_edge._version import __version__
from nin_edge.files import is_unfinished, mark_written, require_folder, write_atomically
from nin_edge.locks import LOCK_NAME, reserved
from nin_edge_runtime import NinEdgeError
from nin_edge_runtime.folders import MARKER, read_start

MANIFEST: Final = "_manifest.json"
"""Readers of a folder of Parquet files pass over names that begin with an underscore."""

_FORMAT: Final = 1
_COMPARED: Final = ("model", "input", "settings")
_LARGEST_MANIFEST: Final = 1 << 20  # bytes


@dataclass(frozen=True)
class Summary:
    """What is in the output."""

    images: int
    """Rows of all files."""
    errors: int
    """Rows that have an error in place of a prediction."""
    files: int
    """Number of Parquet files."""
    written: int
    """Those among them that this run wrote."""


def shard_file(folder: Path, index: int) -> Path:
    """The file of a shard."""
    return folder / f"part-{index:06}.parquet"


@contextmanager
def open_output(folder: Path, about: dict[str, Any]) -> Iterator[None]:
    """Begin the output, or go on with it, while no other process does.

    Args:
        folder: the folder; it is made if missing.
        about: `model`, `input` and `settings`, which must be the same as before; and `path`.

    Raises:
        NinEdgeError: it has other content, or was begun with another model, input or settings.
        OSError: it cannot be written to.
    """
    require_folder(folder)
    with reserved(folder, LOCK_NAME, f"{folder}: another process writes to it"):
        manifest = folder / MANIFEST
        if manifest.exists():
            _check(manifest, about)
        else:
            names = {path.name for path in folder.iterdir()} - {LOCK_NAME}
            if other := sorted(name for name in names if not is_unfinished(name)):
                raise NinEdgeError(
                    f"{folder}: has other content ({other[0]}), expected a new folder, or one "
                    "that nin-edge score began"
                )
            described = {"format": _FORMAT, "nin_edge": __version__} | about
            write_atomically(manifest, f"{json.dumps(described, indent=2)}\n".encode())
        if not (folder / MARKER).exists():
            mark_written(folder)  # so that none of it is read as an input
        for left in folder.iterdir():
            if is_unfinished(left.name):
                left.unlink(missing_ok=True)
        yield


def summarise(folder: Path, files: int, written: int) -> Summary:
    """Count the rows of all files.

    Raises:
        NinEdgeError: one is damaged, or missing.
    """
    images = errors = 0
    for index in range(files):
        path = shard_file(folder, index)
        try:
            with path.open("rb") as file:  # which may have a name that pyarrow refuses
                column = pq.read_table(file, columns=["error"])["error"]
        except (pa.ArrowException, OSError) as error:
            raise NinEdgeError(
                f"{path}: not a readable Parquet file ({error}); remove it and run again"
            ) from error
        images += len(column)
        errors += len(column) - column.null_count
    return Summary(images, errors, files, written)


def _check(manifest: Path, about: dict[str, Any]) -> None:
    """Refuse another model, input or settings.

    Raises:
        NinEdgeError: they differ, or the manifest is damaged.
    """
    try:
        before = json.loads(read_start(manifest, _LARGEST_MANIFEST))
        old = {name: before[name] for name in _COMPARED}
        known = before["format"] == _FORMAT
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NinEdgeError(f"{manifest}: damaged, expected what nin-edge score wrote") from error
    if not known:
        raise NinEdgeError(
            f"{manifest}: format {before['format']!r}, expected {_FORMAT}; this is nin-edge "
            f"{__version__}, that was {before.get('nin_edge')}"
        )
    for name, value in old.items():
        if value != about[name]:
            raise NinEdgeError(
                f"{manifest.parent}: was begun with another {name} ({_named(value)}), this is "
                f"{_named(about[name])}; name another folder"
            )


def _named(values: Any) -> str:
    """Some values in one line, digests shortened."""
    if not isinstance(values, dict):
        return str(values)
    return ", ".join(
        f"{name} {value[:12] if name == 'sha256' and isinstance(value, str) else value}"
        for name, value in values.items()
    )

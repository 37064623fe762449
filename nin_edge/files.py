"""Writing files so that a reader sees the old content or the new, and never a part of either."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nin_edge_runtime.errors import NinEdgeError
from nin_edge_runtime.folders import MARKER, MARKER_BYTES, read_start, written_names

_WHOLE_FOLDER: Final = b"nin-edge wrote this folder: it is not read as images.\n"

_PREFIX: Final = ".nin-edge-"  # of a file that is not whole yet
_SUFFIX: Final = ".part"
_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def is_unfinished(name: str) -> bool:
    """Whether a file of this name is what a killed process left of one that it wrote."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file: write a temporary one beside it, flush that to disk, rename it.

    Raises:
        OSError: the folder is not writable or the disk is full; `path` is unchanged then.
    """
    try:
        _write(path, data)
    except OSError as error:  # a full disk names no file, other errors the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, data: bytes) -> None:
    # Not named after the file: a name of 250 bytes has no room for more.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX, suffix=_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            _flush(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        with suppress(OSError):  # exFAT and CIFS have no modes
            # mkstemp's 0600 would hide the file from its owner's group
            Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    with suppress(OSError):  # Windows opens no folders, and not every disk flushes them
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut too
        finally:
            os.close(folder)


def _flush(file: int) -> None:
    """Write a file through to the disk, where the file system can be told to."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def require_folder(path: Path) -> None:
    """Check that a folder exists or can be made, before any work is done for it.

    Raises:
        NinEdgeError: a file or a link to nothing is in its place or on the way to it, or it is not
            writable.
    """
    for part in (path, *path.parents):
        if part.is_dir():
            if not os.access(part, os.W_OK):
                raise NinEdgeError(f"{part}: not writable, expected a folder to write to")
            return
        if part.exists():
            raise NinEdgeError(f"{part}: a file, expected a folder to write to")
        if part.is_symlink():
            target = part.readlink()
            raise NinEdgeError(
                f"{part}: a link to {target}, which is missing; expected a folder to write to"
            )


def mark_beside(images: Path, file: Path) -> None:
    """Mark a picture as written by nin-edge if it lies in a folder of images or below it."""
    if images.resolve() in file.resolve().parents:
        mark_written(file.parent, [file.name])


def mark_written(folder: Path, names: Iterable[str] | None = None) -> None:
    """Mark a folder, or files in it, as written by nin-edge: they are never read as images.

    Args:
        folder: the folder, which exists.
        names: of the files; None for all of the folder, whatever comes into it.
    """
    marker = folder / MARKER
    if names is None:
        marker.write_bytes(_WHOLE_FOLDER)  # a part of it says the same
        return
    known = written_names(read_start(marker, MARKER_BYTES) if marker.is_file() else b"[]")
    if known is not None and (added := set(names) - known):
        write_atomically(marker, json.dumps(sorted(known | added), indent=0).encode())

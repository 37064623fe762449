"""Locks between processes, on Linux, macOS and Windows; a killed process leaves none behind.

What is locked is a plain file. A link in its place would have another file written to, and a pipe
would be waited for.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import count
from pathlib import Path
from typing import IO, Any, Final

from nin_edge_runtime.errors import NinEdgeError

LOCK_NAME: Final = ".nin-edge.lock"
"""Name of the file that reserves a whole folder."""

_ATTEMPTS: Final = 1000  # to make a folder that others may remove meanwhile


def open_plain(path: Path) -> FileIO:
    """Open a plain file to read it and to append to it; it is made if missing.

    Raises:
        NinEdgeError: a link, a pipe or a device is there.
        OSError: it cannot be opened.
    """
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file: FileIO = open(  # noqa: SIM115  # the caller closes it; Path.open has no opener
            path, "ab+", buffering=0, opener=lambda name, mode: os.open(name, mode | flags, 0o666)
        )
    except OSError as error:
        if not path.is_symlink() and error.errno != errno.ENXIO:
            raise
    else:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_nlink < 2 and not path.is_symlink():
            return file
        file.close()
    raise NinEdgeError(f"{path}: a link, a pipe or a device, expected a plain file; remove it")


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; False if another process holds its lock.

    Some network disks have no locks. There, every process gets the file.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the first is POSIX's, the second Windows's
        return False
    except OSError:
        return True
    return True


@contextmanager
def reserved(folder: Path, name: str, refusal: str) -> Iterator[None]:
    """Reserve a folder, or a part of it, for this process.

    The folder is made if missing, and removed at the end if nothing was written to it.

    Args:
        folder: the folder.
        name: name of the lock's file in it, which exists only while it is locked.
        refusal: the error's message if another process has reserved it.

    Raises:
        NinEdgeError: another process has reserved it.
        OSError: the folder cannot be made or written to.
    """
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        with _locked(folder / name, refusal):
            yield
    finally:
        for part in made:
            with suppress(OSError):  # it is in use
                part.rmdir()


@contextmanager
def _locked(path: Path, refusal: str) -> Iterator[None]:
    for attempt in count():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open_plain(path)
        except (FileNotFoundError, FileExistsError):
            blocked = path.parent.exists() and not path.parent.is_dir()
            if blocked or path.parent.is_symlink() or attempt >= _ATTEMPTS:
                raise
            continue  # a holder that ended removed the folder in between
        with file:
            if not try_lock(file):
                raise NinEdgeError(refusal)
            # A holder that ends removes the file: what was opened before that locks nothing.
            if not _is_at(file, path):
                continue
            try:
                yield
            finally:
                if sys.platform != "win32":  # which removes no open file
                    path.unlink(missing_ok=True)
        if sys.platform == "win32":
            with suppress(OSError):  # the next process has it
                path.unlink()
        return


def _is_at(file: IO[Any], path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

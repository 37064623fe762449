"""The folder of the caches and downloads: its place, its lock, and what is wrong where it fails."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nin_edge.data.errors import DatasetError
from nin_edge.locks import open_plain, try_lock

_ABANDONED_SECONDS: Final = 86_400.0  # no build takes a day
_POLL_SECONDS: Final = 0.1  # while another process builds the same cache
_NO_ROOM: Final = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def default_cache() -> Path:
    """Folder of the caches and the downloads.

    Raises:
        DatasetError: this user has no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nin-edge"
    except RuntimeError as error:
        raise DatasetError(
            "no home folder for the cache of decoded images: set XDG_CACHE_HOME to a folder"
        ) from error


@contextmanager
def cache_errors(cache: Path) -> Iterator[None]:
    """Context in which a cache that cannot be written is one error, with what helps.

    Args:
        cache: folder of the caches.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:  # a write to an open file
            ours = error.errno in _NO_ROOM
        else:
            name = Path(os.fsdecode(error.filename))
            ours = name.is_relative_to(cache) or cache.is_relative_to(name)
        if not ours:
            raise
        raise DatasetError(
            f"{cache}: the cache cannot be written ({error.strerror}); set XDG_CACHE_HOME to a "
            "folder elsewhere"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build a cache; remove what killed ones left unfinished.

    Args:
        folder: of the cache.
    """
    folder.parent.mkdir(0o700, parents=True, exist_ok=True)  # as the XDG specification has it
    for part in folder.parent.glob(".building-*"):
        with suppress(FileNotFoundError):  # another process just finished it
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(part, ignore_errors=True)
    path = folder.parent / "locks" / folder.name
    path.parent.mkdir(exist_ok=True)
    with open_plain(path) as file:
        while not try_lock(file):
            time.sleep(_POLL_SECONDS)
        yield

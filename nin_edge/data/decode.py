"""Encoded images -> pixels of one size, in parallel where that pays, in bounded memory.

This module imports no torch: its worker processes start in a fraction of a second.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nin_edge_runtime import ImageError
from nin_edge_runtime.image import load_image
from nin_edge_runtime.preprocessing import Preprocessing

Picture: TypeAlias = "bytes | NDArray[np.uint8]"
"""An image as the bytes of a file, or as pixels (H, W, 3) or (H, W, 1)."""

_CHUNK: Final = 128  # images a task: enough to hide the cost of sending them
_CHUNK_BYTES: Final = 1 << 22  # and of a task: photos of some megabytes each must not fill memory
_POOL_FROM: Final = 512  # below so many images, starting processes takes longer than decoding


def decode(
    pictures: Iterable[tuple[str, Picture]], *, size: int, channels: int, workers: int, total: int
) -> Iterator[tuple[list[str], list[bytes | str]]]:
    """Decode named pictures in order, with few of them in memory at a time.

    Args:
        pictures: names, and what is to be decoded.
        size: side S that they are resized to, in pixels.
        channels: C, 3 for RGB, 1 for luma.
        workers: processes, at least 1.
        total: how many pictures there are.

    Yields:
        Some names, and for each its pixels (S, S, C) as bytes, or why it has none.
    """
    chunks = _chunks(pictures, row=size * size * channels)
    task = partial(_decode_chunk, size=size, channels=channels)
    if workers < 2 or total < _POOL_FROM:
        for chunk in chunks:
            yield [name for name, _ in chunk], task(chunk)
        return
    # Spawned, not forked: a forked child of a process with torch's threads can hang.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pending: deque[tuple[list[str], Future[list[bytes | str]]]] = deque()
        try:
            for chunk in chunks:
                with _interrupts_held():  # submitting starts the workers
                    future = pool.submit(task, chunk)
                pending.append(([name for name, _ in chunk], future))
                if len(pending) > 2 * workers:
                    names, future = pending.popleft()
                    yield names, future.result()
            while pending:
                names, future = pending.popleft()
                yield names, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode_chunk(
    chunk: list[tuple[str, Picture]], *, size: int, channels: int
) -> list[bytes | str]:
    """Each image's pixels (S, S, C) as bytes, or why it has none. Runs in a worker process."""
    preprocessing = Preprocessing(size, channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    decoded: list[bytes | str] = []
    for _, picture in chunk:
        try:
            decoded.append(preprocessing.resize(load_image(picture)).tobytes())
        except ImageError as error:
            decoded.append(str(error))
    return decoded


def _chunks(
    pictures: Iterable[tuple[str, Picture]], row: int
) -> Iterator[list[tuple[str, Picture]]]:
    """Tasks for the workers, bounded in what is sent to them and in what comes back."""
    most = min(_CHUNK, max(1, _CHUNK_BYTES // row))
    chunk: list[tuple[str, Picture]] = []
    held = 0
    for name, picture in pictures:
        chunk.append((name, picture))
        held += len(picture) if isinstance(picture, bytes) else picture.nbytes
        if len(chunk) == most or held >= _CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: a process started meanwhile never takes it.

    So it is the parent alone that stops, and ends its workers.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

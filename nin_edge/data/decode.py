"""Encoded images -> pixels of one size, in parallel where that pays, in bounded memory.

This module imports no torch: its worker processes start in a fraction of a second.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context
from types import ModuleType
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nin_edge.data.errors import DatasetError
from nin_edge.text import without_name
from nin_edge_runtime import ImageError
from nin_edge_runtime.preprocessing import Preprocessing

ImageData: TypeAlias = "bytes | NDArray[np.uint8] | ImageError"
"""An image as the bytes of a file, as pixels (H, W, 3) or (H, W, 1), or why it is neither."""


class Decoded(NamedTuple):
    """A decoded image."""

    pixels: bytes
    """Of (S, S, C)."""
    enlarged: bool
    """Whether its shorter side had fewer pixels than S."""


_Result: TypeAlias = "tuple[list[Decoded | str], list[tuple[int, str]]]"
"""Images of a chunk, and (depth, message) of each warning."""

_logger = logging.getLogger("nin_edge_runtime.samples")  # of the warnings of dark images

_CHUNK: Final = 128  # images a task: enough to hide the cost of sending them
_CHUNK_BYTES: Final = 1 << 22  # and of a task: photos of some megabytes each must not fill memory
_POOL_FROM: Final = 512  # below so many images, starting processes takes longer than decoding


@dataclass(frozen=True)
class Decoder:
    """Decodes images to one size."""

    size: int
    """Side S that they are resized to, in pixels."""
    channels: int
    """C: 3 for RGB, 1 for luma."""
    workers: int
    """Processes, at least 1."""

    @property
    def row(self) -> int:
        """Bytes of the pixels of one image."""
        return self.size * self.size * self.channels

    def __call__(
        self, images: Iterable[tuple[str, ImageData]], total: int
    ) -> Iterator[tuple[list[str], list[Decoded | str]]]:
        """Decode named images in their order, with few of them in memory at a time.

        Args:
            images: names and contents.
            total: how many they are.

        Yields:
            Some names, and for each the image, or why there is none.

        Raises:
            DatasetError: a process that decodes was killed.
        """
        chunks = _chunks(images, self.row)
        if self.workers < 2 or total < _POOL_FROM:
            for chunk in chunks:
                yield (
                    [name for name, _ in chunk],
                    _decode_chunk(chunk, size=self.size, channels=self.channels),
                )
            return
        task = partial(_decode_apart, size=self.size, channels=self.channels)
        warned: set[int] = set()
        others = set(active_children())
        # Spawned, not forked: a forked child of a process with torch's threads can hang.
        with ProcessPoolExecutor(self.workers, get_context("spawn")) as pool:
            pending: deque[tuple[list[str], Future[_Result]]] = deque()
            try:
                for chunk in chunks:
                    with _signals_blocked(), _main_hidden():  # submitting starts the workers
                        future = pool.submit(task, chunk)
                    pending.append(([name for name, _ in chunk], future))
                    if len(pending) > 2 * self.workers:
                        names, future = pending.popleft()
                        yield names, _warned_once(future.result(), warned)
                while pending:
                    names, future = pending.popleft()
                    yield names, _warned_once(future.result(), warned)
            except BrokenProcessPool as error:
                # The pool ends the other workers by SIGTERM, which they block, and waits for them.
                for worker in set(active_children()) - others:
                    worker.kill()
                raise DatasetError(
                    "a process that decodes images was killed, as by a lack of memory; with "
                    "NIN_EDGE_THREADS=1, images are decoded one by one"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _decode_chunk(
    chunk: list[tuple[str, ImageData]], *, size: int, channels: int
) -> list[Decoded | str]:
    """Each image, or why there is none. Runs in a worker process."""
    preprocessing = Preprocessing(size, channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    decoded: list[Decoded | str] = []
    for name, image in chunk:
        if isinstance(image, ImageError):
            decoded.append(str(image))
            continue
        file: bytes | NDArray[np.uint8] | io.BytesIO = image
        if isinstance(image, bytes) and image:
            file = io.BytesIO(image)
            file.name = name  # for messages
        try:
            pixels, shape = preprocessing.load(file)
            decoded.append(Decoded(pixels.tobytes(), enlarged=min(shape) < size))
        except ImageError as error:
            decoded.append(without_name(error, name))
    return decoded


def _decode_apart(chunk: list[tuple[str, ImageData]], *, size: int, channels: int) -> _Result:
    """`_decode_chunk` in a process that has no log of its own."""
    kept = _Kept()
    _logger.addHandler(kept)
    try:
        return _decode_chunk(chunk, size=size, channels=channels), kept.warnings
    finally:
        _logger.removeHandler(kept)


class _Kept(logging.Handler):
    """Keeps (depth, message) of warnings of dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append((getattr(record, "depth", 0), record.getMessage()))


def _warned_once(result: _Result, warned: set[int]) -> list[Decoded | str]:
    """Log the first warning of each depth of several processes; gives the images."""
    decoded, records = result
    for depth, message in records:
        if depth not in warned:
            warned.add(depth)
            _logger.warning("%s", message)
    return decoded


def _chunks(
    images: Iterable[tuple[str, ImageData]], row: int
) -> Iterator[list[tuple[str, ImageData]]]:
    """Tasks for the workers, bounded in what is sent to them and in what comes back."""
    most = min(_CHUNK, max(1, _CHUNK_BYTES // row))
    chunk: list[tuple[str, ImageData]] = []
    size = 0
    for name, image in images:
        chunk.append((name, image))
        size += len(image) if isinstance(image, bytes) else getattr(image, "nbytes", 0)
        if len(chunk) == most or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Hide the main module for a moment: a process started meanwhile does not import it.

    Else a script without `if __name__ == "__main__"` would run again in each worker, which waits
    for the data set that the script itself is opening.
    """
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block Ctrl-C, SIGTERM and SIGHUP for a moment: a process started meanwhile never takes them.

    So only the parent stops, and ends its workers.
    """
    if sys.platform == "win32":  # a console sends Ctrl-C to all its processes
        yield
        return
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Frames of a video file or a camera, through OpenCV, which only this module needs.

A file gives every frame, however slow the caller is. A camera gives the newest frame: a thread
reads it all the time and keeps only the latest, so that a slow caller gets fewer frames, not older
ones.
"""

from __future__ import annotations

import logging
import operator
import os
import re
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from nin_edge_runtime.arguments import whole_number
from nin_edge_runtime.errors import ImageError, MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

_logger = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 2.0  # longest wait for a camera to finish its current frame
_MAX_DAMAGED: Final = 100  # after as many damaged frames in a row, a file counts as ended
_LAST_CAMERA: Final = 99  # to OpenCV, an index's hundreds name a driver: 200 is Video4Linux
_FFMPEG_LOG_LEVEL: Final = "OPENCV_FFMPEG_LOGLEVEL"
_FFMPEG_QUIET: Final = "-8"  # AV_LOG_QUIET


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One frame of a video or a camera."""

    index: int
    """Its number, from 0, among all frames of the source, including skipped ones."""
    seconds: float
    """Its time in the video; for a camera, the time since its first frame."""
    pixels: NDArray[np.uint8]
    """(H, W, 3), blue, green, red, as OpenCV gives it: `classify(frame.pixels, bgr=True)`."""


class _Capture(Protocol):
    """The methods of `cv2.VideoCapture` that are used here."""

    def grab(self) -> bool:
        """Go to the next frame."""

    def retrieve(self) -> tuple[bool, Any]:
        """Decode the frame that was grabbed."""

    def get(self, property_id: int, /) -> float:
        """A property of the source."""

    def release(self) -> None:
        """Close the source."""


def frames(source: str | os.PathLike[str] | int, *, every: int = 1) -> Generator[Frame, None, None]:
    """Read a video or a camera, frame by frame.

    A file gives each N-th frame, from the first to the last. Damaged frames are skipped with a
    warning in the log; a file that ends before its announced length also gets a warning. A camera,
    a device file and an endless URL (of a network camera) give the newest frame each time: frames
    that arrive in the meantime are dropped.

    Close the generator (`contextlib.closing`) to close the source before its end.

    Args:
        source: path of a video file, a URL that OpenCV opens, a GStreamer pipeline that ends in
            `appsink` (`nvarguscamerasrc ! nvvidconv ! videoconvert ! appsink`), or a camera's index
            (0 for the first), as a number or as digits.
        every: N, at least 1: take the first of every N frames. The others cost less, because
            OpenCV does not convert their pixels.

    Returns:
        A generator of frames, which opens the source when the first frame is requested and ends
        with the video.

    Raises:
        ImageError: at the call, no such file; later, not a video, no such camera, or a camera that
            gives no more frames.
        MissingDependencyError: later, OpenCV is not installed.
        ValueError: `every` is below 1.
    """
    every = whole_number("every", every, 1)
    camera = _camera_index(source)
    if camera is not None:
        if not 0 <= camera <= _LAST_CAMERA:
            raise ImageError(f"camera {camera}: expected an index of 0 to {_LAST_CAMERA}")
        return _read(camera, f"camera {camera}", every)
    name = os.fspath(source)  # type: ignore[arg-type]  # no index
    try:
        name.encode()
    except UnicodeError:  # OpenCV would crash
        raise ImageError(f"{name}: not in UTF-8, as OpenCV needs a name to be") from None
    if "://" not in name and not _is_pipeline(name):
        _require_file(name)
    return _read(name, public_name(name), every)


def public_name(source: str) -> str:
    """The name of a source for messages and logs: a URL without its user and password."""
    return re.sub(r"://[^/\s]*@", "://***@", source)


def _camera_index(source: str | os.PathLike[str] | int) -> int | None:
    """The number of a camera; None for other sources."""
    if isinstance(source, str):
        if not (source.isascii() and source.isdecimal()):
            return None
        try:
            return int(source)
        except ValueError:  # thousands of digits
            raise ImageError(f"camera {source}: expected an index of 0 to {_LAST_CAMERA}") from None
    try:
        return operator.index(source)  # type: ignore[arg-type]  # NumPy's numbers, too
    except TypeError:
        return None


def _is_pipeline(name: str) -> bool:
    """Whether a source is a description of a GStreamer pipeline."""
    return re.search(r" ! appsink\b", name) is not None


def _read(source: str | int, name: str, every: int) -> Generator[Frame, None, None]:
    cv2 = _import_opencv()
    capture = _open(cv2, source, name)
    if isinstance(source, int):
        live = True
    elif "://" in source or _is_pipeline(source):
        live = capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0
    else:
        live = Path(source).is_char_device()
    if live:
        yield from _camera_frames(capture, name, every)
        return
    with _released(capture):
        try:
            yield from _file_frames(capture, name, every, cv2)
        except cv2.error as error:
            raise ImageError(f"{name}: cannot be decoded ({_reason(error)})") from error


def _file_frames(capture: _Capture, name: str, every: int, cv2: ModuleType) -> Iterator[Frame]:
    """Give each N-th frame of a file or a finite URL."""
    # A frame that FFmpeg cannot decode looks like the end, but the next ones can still be read. At
    # the real end, trying again is free for a file, but may wait for the network for a URL.
    is_file = not _is_pipeline(name) and Path(name).is_file()
    attempts = _MAX_DAMAGED if is_file else 1
    rate = capture.get(cv2.CAP_PROP_FPS)
    index = given = damaged = 0
    failed = 0  # grabs in a row
    while failed < attempts:
        if not capture.grab():
            failed += 1
            continue
        index, damaged, failed = index + failed, damaged + failed, 0
        if index % every == 0:
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if seconds <= 0 < index and rate > 0:  # a format without timestamps
                seconds = index / rate
            good, pixels = capture.retrieve()
            if good:
                yield Frame(index, max(0.0, seconds), pixels)
                given += 1
            else:
                damaged += 1
        index += 1
    if not given:
        raise ImageError(f"{name}: no frame of it can be decoded, expected a video")
    if damaged:
        _logger.warning("%s: skipped %d damaged frame%s", name, damaged, "s" * (damaged > 1))
    announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if index < announced - max(1, announced // 100):  # some formats only estimate it, closely
        _logger.warning("%s: ends after %d of the %d frames it announces", name, index, announced)


def _camera_frames(capture: _Capture, name: str, every: int) -> Iterator[Frame]:
    """Give the newest frame of a live source, each time one is requested."""
    newest = _Newest(capture, every)
    try:
        while (frame := newest.take()) is not None:
            yield frame
    finally:
        newest.close()
    raise ImageError(f"{name}: gives no more frames; is it still connected?") from newest.error


class _Newest:
    """Reads a live source in a thread, and keeps the newest frame until it is taken."""

    def __init__(self, capture: _Capture, every: int) -> None:
        self.error: Exception | None = None
        self._capture, self._every = capture, every
        self._frame: Frame | None = None
        self._ended = False  # no frame follows the current one
        self._stopped = False  # the caller has closed it
        self._changed = threading.Condition()
        # A daemon, so that a hanging camera does not keep the program from exiting.
        self._thread = threading.Thread(target=self._run, name="nin-edge camera", daemon=True)
        self._thread.start()

    def take(self) -> Frame | None:
        """Wait for a frame that was not taken before; None at the end of the source."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            frame, self._frame = self._frame, None
        return frame

    def close(self) -> None:
        """Stop the thread, which then closes the source."""
        self._stopped = True
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        with _released(self._capture):
            try:
                self._keep_newest()
            except Exception as error:  # a camera's driver can raise anything
                self.error = error
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _keep_newest(self) -> None:
        start = None
        for index in count():
            if self._stopped or not self._capture.grab():
                return
            now = time.monotonic()
            start = now if start is None else start
            if index % self._every:
                continue
            good, pixels = self._capture.retrieve()
            if good:  # else it is damaged, and the next one may be sound
                with self._changed:
                    self._frame = Frame(index, now - start, pixels)
                    self._changed.notify()


def _import_opencv() -> ModuleType:
    """Import OpenCV; its native log lines are turned off if it was not imported before."""
    imported_before = "cv2" in sys.modules
    try:
        import cv2
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
            reason = "OpenCV is not installed"
        else:
            reason = f"OpenCV cannot be loaded ({_reason(error)})"
        raise MissingDependencyError(f"{reason}: pip install opencv-python-headless") from error
    module: ModuleType = cv2
    if not imported_before and "OPENCV_LOG_LEVEL" not in os.environ:
        logs = getattr(module.utils, "logging", module)  # 4.6 has it in the package itself
        logs.setLogLevel(0)
    return module


def _open(cv2: ModuleType, source: str | int, name: str) -> _Capture:
    quiet = _FFMPEG_LOG_LEVEL not in os.environ
    if quiet:  # FFmpeg reads the variable when OpenCV opens the first file
        os.environ[_FFMPEG_LOG_LEVEL] = _FFMPEG_QUIET
    try:
        if isinstance(source, str) and _is_pipeline(source):
            capture: Any = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
        else:
            capture = cv2.VideoCapture(source)
    finally:
        if quiet:
            os.environ.pop(_FFMPEG_LOG_LEVEL, None)
    if capture.isOpened():
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # documented default, but not in 4.11
        opened: _Capture = capture
        return opened
    capture.release()
    if isinstance(source, int):
        raise ImageError(
            f"{name}: cannot be opened; is it connected, and not used by another program?"
        )
    if _is_pipeline(source):
        reason = "does it run in gst-launch-1.0?"
        if re.search(r"GStreamer:\s+NO", cv2.getBuildInformation()):
            reason = "this OpenCV is built without GStreamer, as the wheels of PyPI are"
        raise ImageError(f"{name}: cannot be opened; {reason}")
    if "://" in source:
        raise ImageError(f"{name}: cannot be opened; does the server respond with a video?")
    raise ImageError(f"{name}: cannot be opened, expected a video in a format that OpenCV reads")


def _require_file(name: str) -> None:
    """Check a path before opening it: OpenCV gives no reason."""
    try:
        if not Path(name).exists():
            hint = "; a GStreamer pipeline ends in ! appsink" if " ! " in name else ""
            raise ImageError(f"{name}: no such file{hint}")
        if Path(name).is_dir():
            raise ImageError(f"{name}: a folder, expected a video file")
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(f"{name}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _released(capture: _Capture) -> Iterator[None]:
    try:
        yield
    finally:
        capture.release()

"""Downloads: over HTTPS, resumed when interrupted, checked by checksum.

The data sets are in the catalogue here; `nin_edge.web` names one more file. Nothing else in
nin-edge opens a connection. An unfinished file is called `NAME.part`, and the next attempt resumes
it; it is renamed once its checksum is right.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from nin_edge.data.watched import Watch, WatchedHTTP, WatchedHTTPS
from nin_edge.locks import open_plain, try_lock
from nin_edge_runtime.errors import NinEdgeError

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of a file, the bytes of it that are there, and its length."""

_ATTEMPTS: Final = 3  # in a row without another byte
_BLOCK: Final = 1 << 16
_PAUSE: Final = 1.0  # seconds between attempts
_SECONDS: Final = 30.0
_SLOWEST: Final = 10_000  # bytes a second, on average: slower than that is no download
_MAX_DIGITS: Final = 15  # of a length that a server states


class DownloadError(NinEdgeError, OSError):
    """A file could not be downloaded; the message names it and says why."""


class _BrokenError(Exception):
    """A connection failed in a way that another attempt may not."""


@dataclass(frozen=True)
class Remote:
    """A file to download."""

    urls: tuple[str, ...]
    """Its addresses; the later ones are tried when the earlier ones fail."""
    size: int
    """Its length in bytes."""
    digest: str
    """Checksum that its publisher states, in hexadecimal."""
    algorithm: str = "md5"
    """What the checksum is, as in `hashlib`; data sets have no better one."""

    @property
    def name(self) -> str:
        """Its name, the last part of the URL."""
        return urlsplit(self.urls[0]).path.rsplit("/", 1)[-1]


def _idx(folders: Sequence[str], *files: tuple[int, str]) -> tuple[Remote, ...]:
    names = (
        f"{split}-{what}-ubyte.gz"
        for split in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    )
    return tuple(
        Remote(tuple(f"{folder}/{name}" for folder in folders), size, md5)
        for name, (size, md5) in zip(names, files, strict=True)
    )


CATALOGUE: Final = {
    "cifar10": (
        Remote(
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            170_052_171,
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
    "cifar100": (
        Remote(
            ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
            168_513_733,
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    ),
    # The authors' own server no longer has MNIST; these copies, of PyTorch and of the Common Visual
    # Data Foundation, are checked against the checksums of the originals.
    "mnist": _idx(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    # The address that its authors state is without TLS; their repository has the same files.
    "fashion-mnist": _idx(
        ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",),
        (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
"""The files of each official data set."""


def download(
    files: Sequence[Remote],
    folder: Path,
    *,
    timeout: float = _SECONDS,
    progress: Progress | None = None,
) -> None:
    """Download files that are not there yet, and check those that are.

    Args:
        files: the files, such as `CATALOGUE["cifar10"]`.
        folder: where they go; it is made if needed.
        timeout: seconds that the server may keep silent.
        progress: called with how the download of a file goes.

    Raises:
        NinEdgeError: a link or a device is in the place of an unfinished file.
        DownloadError: no connection, a response other than the file, a wrong checksum; or a file
            that was there before is not the published one.
        OSError: the folder is not writable or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for remote in files:
        target = folder / remote.name
        if target.exists():
            digest = _digest(target, remote)
            if digest != remote.digest:
                raise DownloadError(
                    f"{target}: {remote.algorithm.upper()} {digest}, "
                    f"its publisher states {remote.digest}; "
                    "move it away and it is downloaded again"
                )
            continue
        _fetch(remote, target, timeout, progress)


def _fetch(remote: Remote, target: Path, timeout: float, progress: Progress | None) -> None:
    """Download one file from the first of its addresses that has it."""
    part = target.with_name(f"{target.name}.part")
    with _locked(part) as file:
        for url in remote.urls:
            try:
                _fetch_from(url, remote, part, file, timeout, progress)
                break
            except DownloadError:
                if url == remote.urls[-1]:
                    raise
        os.fsync(file.fileno())
        part.replace(target)


@contextmanager
def _locked(part: Path) -> Iterator[FileIO]:
    """Open the unfinished file for this process alone; one that leads elsewhere is refused."""
    with open_plain(part) as file:
        if not try_lock(file):
            raise DownloadError(f"{part}: another process is downloading it")
        try:
            yield file
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()


def _fetch_from(
    url: str,
    remote: Remote,
    part: Path,
    file: FileIO,
    timeout: float,
    progress: Progress | None,
) -> None:
    """Finish the file, in as many attempts as make progress and are not too slow together."""
    patience = (_ATTEMPTS + 1) * (timeout + _PAUSE)
    with Watch(patience, at_most=patience + 2 * remote.size / _SLOWEST) as watch:
        failures, resumed = 0, part.stat().st_size > 0
        while True:
            before = part.stat().st_size
            try:
                _continue(url, remote, file, timeout, watch, progress)
            except _BrokenError as error:
                failures = failures + 1 if part.stat().st_size <= before else 1
                if failures < _ATTEMPTS and not watch.expired:
                    time.sleep(_PAUSE)
                    continue
                fault = f"slower than {_SLOWEST / 1000:g} kB/s" if watch.expired else error
                kept = part.stat().st_size
                rest = f"; {kept:,} bytes are kept, the next attempt resumes there" if kept else ""
                raise DownloadError(f"{url}: {fault}{rest}") from error
            digest = _digest(part, remote)
            if digest == remote.digest:
                return
            file.truncate(0)  # nothing tells which bytes are wrong
            if not resumed:
                raise DownloadError(
                    f"{url}: {remote.algorithm.upper()} {digest}, "
                    f"its publisher states {remote.digest}; the file was deleted"
                )
            resumed = False  # the old part may be of another file: once more, from the start


def _continue(
    url: str,
    remote: Remote,
    file: FileIO,
    timeout: float,
    watch: Watch,
    progress: Progress | None,
) -> None:
    """Request the missing bytes and append them; all of them if the server knows no ranges.

    Raises:
        _BrokenError: the connection broke.
        DownloadError: the server responds with something else.
    """
    start = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "nin-edge"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_NoDowngrade, WatchedHTTP(watch), WatchedHTTPS(watch))
    with _network_errors(url, timeout):
        try:
            response = opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and start:
                return  # nothing is missing; the checksum decides
            raise
    with response:
        length = response.headers.get("Content-Length", "")
        if start and response.status != 206:
            start = 0
            file.truncate(0)
        known = length.isascii() and length.isdecimal() and len(length) <= _MAX_DIGITS
        done = start
        total = start + int(length) if known else 0
        while True:
            if max(done, total) > remote.size:
                file.truncate(0)
                raise DownloadError(
                    f"{url}: at least {max(done, total):,} bytes, "
                    f"the published file has {remote.size:,}"
                )
            with _network_errors(url, timeout):
                block = response.read1(_BLOCK)  # `read` waits for a whole block, however slow
            if not block:
                break
            watch.put_off(len(block) / _SLOWEST)
            _append(file, block)
            done += len(block)
            if progress:
                progress(remote.name, done, total or done + 1)
    if done < total or (watch.expired and not total):
        raise _BrokenError(f"the connection broke after {done:,} of {total or remote.size:,} bytes")


def _append(file: FileIO, block: bytes) -> None:
    """Write a whole block; a full disk is not reported as an error of the network."""
    rest = memoryview(block)
    while rest:
        try:
            rest = rest[file.write(rest) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(file.name)) from error


@contextmanager
def _network_errors(url: str, timeout: float) -> Iterator[None]:
    """Separate failures that may be temporary from responses that stay the same."""
    try:
        yield
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise _BrokenError(f"HTTP {error.code} {error.reason}") from error
        raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise _BrokenError(f"no response for {timeout:g} s") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _BrokenError(f"no response for {timeout:g} s") from error
        raise _BrokenError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # a redirection to no URL
        raise _BrokenError(f"the connection broke ({error or type(error).__name__})") from error


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Refuses a redirection away from HTTPS."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request that follows the redirection.

        Raises:
            DownloadError: it would be without TLS.
        """
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError(f"{req.full_url}: redirected to {newurl}, expected HTTPS")
        fp.close()  # urllib would read it to its end, however far that is
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _digest(path: Path, remote: Remote) -> str:
    with path.open("rb") as file:
        # Where the publisher states no better one than MD5, HTTPS is what protects from forgery.
        made = hashlib.file_digest(
            file, lambda: hashlib.new(remote.algorithm, usedforsecurity=False)
        )
    return made.hexdigest()

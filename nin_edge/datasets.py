"""Folders and archives of labelled images -> arrays, decoded in parallel, cached on the disk.

A data set is `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone, from which a fifth is
then set aside as the test split. It may lie in a folder or in a `.tar`, `.tar.gz`, `.tar.bz2`,
`.tar.xz` or `.zip`, which is read in place. Images go through the runtime's own `image.py`, so a
network is trained on the very pixels a device will give it.

This module imports no torch: its worker processes start in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import tarfile
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, Self

import numpy as np
import PIL
from numpy.typing import NDArray

from nin_edge_runtime import ImageError, NinEdgeError
from nin_edge_runtime.image import IMAGE_SUFFIXES, Preprocessing, load_image
from nin_edge_runtime.providers import usable_threads

TEST_SHARE: Final = 0.2
"""Part of each class that becomes the test split where the data set names none."""

_CACHE_VERSION: Final = 1  # of the cache's layout and of the split's definition
_CHUNK: Final = 128  # images a task: enough to hide the cost of sending them
_SPLITS: Final = {"train", "test"}
_SPLIT_SEED: Final = 0  # never the training seed: runs with different seeds must share their splits
_ABANDONED_SECONDS: Final = 86_400.0  # no build takes a day
_POOL_FROM: Final = 512  # below so many images, starting processes takes longer than decoding

Progress = Callable[[int, int], None]
"""Called with the number of images done and the total."""


class DatasetError(NinEdgeError, ValueError):
    """A folder or archive that cannot be trained on; the message names it and says why."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one size, and which of them serve for what."""

    name: str
    """Name of the folder or archive, without its endings."""
    labels: tuple[str, ...]
    """Class names, in code-point order; targets are indices into it."""
    images: NDArray[np.uint8]
    """(N, S, S, C), memory-mapped: reading a part of it touches no more than that part."""
    targets: NDArray[np.int64]
    """(N,), each image's class."""
    names: tuple[str, ...]
    """(N,), each image's path inside the data set."""
    fit: NDArray[np.int64]
    """Indices of the images that weights are fitted to."""
    holdout: NDArray[np.int64]
    """Images that choices are made on: 2% of the training split, 10% below 10,000 images."""
    test: NDArray[np.int64]
    """Indices of the test split, for one score after all choices."""
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of each file that could not be decoded and was left out."""
    fingerprint: str
    """SHA-256 of labels, names, splits, targets and pixels, in hexadecimal."""


@dataclass(frozen=True)
class _Member:
    """One image file of the source: its path there, its split and its class."""

    name: str
    split: str
    label: str


class _Source(Protocol):
    """A folder or archive: what is in it, and its bytes."""

    def names(self) -> list[str]: ...
    def stamp(self) -> str: ...
    def read(self, names: set[str]) -> Iterator[tuple[str, bytes]]: ...


def open_dataset(
    path: Path,
    *,
    size: int,
    channels: int = 3,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set, decoding it if no valid cache of it exists.

    Args:
        path: a folder or an archive.
        size: side that images are resized to, in pixels.
        channels: 3 for RGB, 1 for luma.
        cache: folder of the caches; `$XDG_CACHE_HOME/nin-edge`, or `~/.cache/nin-edge`, if None.
        workers: processes that decode; the CPUs this process may use, if None.
        progress: told how decoding goes; not called when the cache serves.

    Raises:
        DatasetError: nothing there, an unsafe or broken archive, fewer than two classes, a class
            without images.
    """
    source = _open_source(path)
    folder = (cache or _default_cache()) / f"{dataset_name(path)}-{_key(source, size, channels)}"
    cached = _load_cache(folder)
    if cached is None:
        _build_cache(folder, path, source, size, channels, workers or usable_threads(), progress)
        cached = _load_cache(folder)
        if cached is None:
            raise DatasetError(
                f"{folder}: the cache cannot be read back right after it was written"
            )
    images, index, fingerprint = cached
    labels = tuple(index["labels"])
    targets = np.array(index["targets"], dtype=np.int64)
    fit, holdout, test = _split(
        targets, np.array([split == "test" for split in index["splits"]], dtype=bool)
    )
    return Dataset(
        name=dataset_name(path),
        labels=labels,
        images=images,
        targets=targets,
        names=tuple(index["names"]),
        fit=fit,
        holdout=holdout,
        test=test,
        unreadable=tuple((name, reason) for name, reason in index["unreadable"]),
        fingerprint=fingerprint,
    )


def check_labels(dataset: Dataset, labels: Sequence[str]) -> None:
    """Make sure that a data set has a model's classes, in the order of the model's outputs.

    Raises:
        DatasetError: it has not; the message names those that are missing and those besides.
    """
    if dataset.labels == tuple(labels):
        return
    missing, extra = (
        _list_some(sorted(set(one) - set(other)))
        for one, other in ((labels, dataset.labels), (dataset.labels, labels))
    )
    raise DatasetError(
        f"{dataset.name}: its labels are not the model's: "
        + (
            f"without {missing or 'none'}, with {extra or 'none'} besides"
            if missing or extra
            else f"the same ones in another order, the model's is {_list_some(labels)}"
        )
    )


def _list_some(names: Sequence[str], limit: int = 10) -> str:
    """Names with commas between them, the rest of a long list as a number."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# --- where images come from -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Folder:
    path: Path

    def _entries(self) -> list[tuple[str, os.stat_result]]:
        """Names with their status, sorted; those of folders end with a slash."""
        found, pending, seen = [], deque([self.path]), set()
        while pending:
            folder = pending.popleft()
            if (real := folder.resolve()) in seen:
                continue  # a link that leads back up
            seen.add(real)
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = os.path.relpath(entry.path, self.path)
                    if entry.is_dir():
                        pending.append(Path(entry.path))
                        found.append((f"{name}/", entry.stat()))
                    elif entry.is_file():
                        found.append((name, entry.stat()))
        return sorted(found, key=lambda item: item[0])

    def names(self) -> list[str]:
        return [name for name, _ in self._entries()]

    def stamp(self) -> str:
        # A folder's own time changes with whatever is put beside the images: its name is enough.
        return "".join(
            name if name.endswith("/") else f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            for name, stat in self._entries()
        )

    def read(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        for name in sorted(names):
            try:
                yield name, (self.path / name).read_bytes()
            except OSError:
                yield name, b""  # reported as unreadable with the others


@dataclass(frozen=True)
class _Archive:
    """What tar and zip share: the stamp, and the refusal of members that could reach outside."""

    path: Path

    def stamp(self) -> str:
        stat = self.path.stat()
        return f"{self.path.name}\0{stat.st_size}\0{stat.st_mtime_ns}"

    def _check(self, name: str, *, link: bool) -> None:
        if link:
            raise DatasetError(
                f"{self.path}: member {name!r} is a link or a device, "
                "expected files and folders alone; refused"
            )
        if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DatasetError(f"{self.path}: member {name!r} climbs out of the archive; refused")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except DatasetError:
            raise
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            EOFError,
            OSError,
            RuntimeError,
            ValueError,
        ) as error:
            raise DatasetError(f"{self.path}: a truncated or broken archive ({error})") from error
        except Exception as error:  # lzma.LZMAError, zlib.error: no common base
            raise DatasetError(f"{self.path}: a truncated or broken archive ({error})") from error


class _StrictHeader(tarfile.TarInfo):
    """A torn or missing header is an error; tarfile itself would take it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no end mark: {error}") from error


@dataclass(frozen=True)
class _Tar(_Archive):
    def _members(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in tar:
            self._check(member.name, link=not (member.isfile() or member.isdir()))
            yield member

    def names(self) -> list[str]:
        with self._reading(), tarfile.open(self.path, "r|*", tarinfo=_StrictHeader) as tar:
            members = self._members(tar)
            return sorted({f"{m.name}/" if m.isdir() else m.name for m in members})

    def read(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        with self._reading(), tarfile.open(self.path, "r|*", tarinfo=_StrictHeader) as tar:
            for member in self._members(tar):
                file = tar.extractfile(member) if member.name in names else None
                if file is not None:
                    yield member.name, file.read()


@dataclass(frozen=True)
class _Zip(_Archive):
    def names(self) -> list[str]:
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                mode = member.external_attr >> 16
                self._check(member.filename, link=mode & 0o170000 == 0o120000)
            return sorted({member.filename for member in archive.infolist()})  # folders end in /

    def read(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            for name in sorted(names):
                yield name, archive.read(name)


def _open_source(path: Path) -> _Source:
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise DatasetError(
            f"{path}: no such file or folder, expected a folder or archive of labelled images"
        )
    if zipfile.is_zipfile(path):
        return _Zip(path)
    try:
        with tarfile.open(path, "r|*"):
            return _Tar(path)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DatasetError(
            f"{path}: neither a folder nor a readable .tar (.gz, .bz2, .xz) or .zip ({error})"
        ) from error


@dataclass(frozen=True)
class _Layout:
    """What the folders of a source say."""

    members: list[_Member]
    """The image files that have a class."""
    labels: set[str]
    """The classes, empty ones too."""
    loose: list[str]
    """Image files outside the folders of the classes."""


def _layout(path: Path, names: Sequence[str]) -> _Layout:
    """Which of the names are images, and the split and class that their folders give them."""
    entries = [
        (name, PurePosixPath(name).parts)
        for name in names
        if not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
    ]
    folders = [parts for name, parts in entries if name.endswith("/") and parts]
    files = [
        (name, parts)
        for name, parts in entries
        if not name.endswith("/") and parts[-1].lower().endswith(tuple(IMAGE_SUFFIXES))
    ]
    if not files:
        raise DatasetError(
            f"{path}: no image files in it, expected <class>/*.jpg or train/<class>/*.jpg"
        )
    # Archives usually hold one folder that holds the rest.
    while len({parts[0] for _, parts in files}) == 1 and all(len(parts) > 2 for _, parts in files):
        if {parts[0].lower() for parts in folders} >= _SPLITS:
            break  # train, beside an empty test
        top = files[0][1][0]
        files = [(name, parts[1:]) for name, parts in files]
        folders = [parts[1:] for parts in folders if parts[0] == top and len(parts) > 1]
    tops = {parts[0] for _, parts in files if len(parts) > 1} | {parts[0] for parts in folders}
    splits = {top: top.lower() for top in tops if top.lower() in _SPLITS}
    if set(splits.values()) == _SPLITS and len(splits) == len(_SPLITS):
        if extra := sorted(tops - set(splits)):
            raise DatasetError(
                f"{path}: found {', '.join(extra)} beside train and test, expected these alone"
            )
        depth = 2  # <split>/<class>
    elif {top.lower() for top in tops} & {"train", "training"} and {top.lower() for top in tops} & {
        "val",
        "valid",
        "validation",
        "dev",
        "testing",
    }:
        raise DatasetError(
            f"{path}: found {', '.join(sorted(tops))}, expected train and test "
            "(a hold-out is taken from train)"
        )
    else:
        depth = 1  # <class>
    members, loose = [], []
    for name, parts in files:
        if len(parts) <= depth:
            loose.append(name)
        else:
            split = splits[parts[0]] if depth == 2 else ""
            members.append(_Member(name, split, parts[depth - 1]))
    labels = {member.label for member in members}
    labels |= {parts[depth - 1] for parts in folders if len(parts) == depth}
    for label in labels:
        if not _is_text(label):
            raise DatasetError(f"{path}: the folder name {label!r} is not UTF-8, expected a label")
    return _Layout(members, labels, loose)


def _is_text(name: str) -> bool:
    """Whether a name can be written down: the file system also knows bytes that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- the cache ------------------------------------------------------------------------------------


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nin-edge"


def dataset_name(path: Path) -> str:
    """Name of a folder or archive, the latter without its endings."""
    name = path.resolve().name
    return name if path.is_dir() else re.sub(r"(\.tar)?\.(tar|tgz|gz|bz2|xz|zip)$", "", name)


def _key(source: _Source, size: int, channels: int) -> str:
    """Changes whenever a file's name, size or time does, or anything that decides the pixels."""
    settings = f"{_CACHE_VERSION} {size} {channels} {PIL.__version__}\n"
    return hashlib.sha256(
        (settings + source.stamp()).encode("utf-8", "surrogateescape")
    ).hexdigest()[:20]


def _load_cache(folder: Path) -> tuple[NDArray[np.uint8], dict[str, Any], str] | None:
    """Images, index and fingerprint, or None where the cache is missing, torn or altered."""
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        shape = tuple(index["shape"])
        if (folder / "images.u8").stat().st_size != int(np.prod(shape)):
            return None
        images = np.memmap(folder / "images.u8", dtype=np.uint8, mode="r", shape=shape)
        fingerprint = _fingerprint(folder / "images.u8", index)
        whole = fingerprint == index["fingerprint"] and _checksum(index) == index["checksum"]
        return (images, index, fingerprint) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(pixels: Path, index: dict[str, Any]) -> str:
    digest = hashlib.sha256(
        json.dumps([index[key] for key in ("labels", "names", "splits", "targets")]).encode()
    )
    with pixels.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _checksum(index: dict[str, Any]) -> str:
    """SHA-256 of everything else that the index holds."""
    rest = {key: value for key, value in index.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _build_cache(
    folder: Path,
    path: Path,
    source: _Source,
    size: int,
    channels: int,
    workers: int,
    progress: Progress | None,
) -> None:
    """Decode everything into a temporary folder, then put that in place in one step."""
    layout = _layout(path, source.names())
    members = sorted(layout.members, key=lambda member: (member.split, member.label, member.name))
    places = {member.name: place for place, member in enumerate(members)}
    failures: dict[int, str] = {}
    _prepare_cache(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
        part = Path(temporary)
        row = size * size * channels
        decode = partial(_decode_chunk, size=size, channels=channels)
        with (part / "images.u8").open("wb+") as file:
            done = 0
            for names, decoded in _run(
                decode, _chunks(source.read(set(places))), workers, len(members)
            ):
                for name, pixels in zip(names, decoded, strict=True):
                    if isinstance(pixels, str):
                        failures[places[name]] = pixels
                    else:
                        file.seek(places[name] * row)
                        file.write(pixels)
                        failures.pop(places[name], None)  # a later copy in a tar counts
                done += len(names)
                if progress:
                    progress(done, len(members))
            file.truncate(len(members) * row)
            kept = [place for place in range(len(members)) if place not in failures]
            _close_gaps(file, kept, row)
            file.flush()
            os.fsync(file.fileno())
        index = _index(path, layout, members, kept, failures, (len(kept), size, size, channels))
        index["fingerprint"] = _fingerprint(part / "images.u8", index)
        index["checksum"] = _checksum(index)
        (part / "index.json").write_text(json.dumps(index), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # stale or torn: never trusted
        try:
            part.rename(folder)
        except OSError:
            if _load_cache(folder) is None:  # another process was first only if its cache is sound
                raise
        part.mkdir(exist_ok=True)  # for TemporaryDirectory to remove


def _prepare_cache(folder: Path) -> None:
    """Make the folder of the caches, and sweep what a killed process left unfinished there."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(".building-*"):
        if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(part, ignore_errors=True)


def _close_gaps(file: Any, kept: Sequence[int], row: int) -> None:
    """Move the decoded rows together, over those of unreadable images."""
    for new, old in enumerate(kept):
        if new != old:
            file.seek(old * row)
            pixels = file.read(row)
            file.seek(new * row)
            file.write(pixels)
    file.truncate(len(kept) * row)


def _index(
    path: Path,
    layout: _Layout,
    members: Sequence[_Member],
    kept: Sequence[int],
    failures: dict[int, str],
    shape: tuple[int, ...],
) -> dict[str, Any]:
    """What the cache says of its images; raises where they make no data set."""
    labels = sorted(layout.labels)
    if len(labels) < 2:
        raise DatasetError(
            f"{path}: {len(labels)} class{'' if len(labels) == 1 else 'es'}"
            f"{f' ({labels[0]})' if labels else ''}, expected a folder for each of at least two"
        )
    splits = {members[place].split for place in kept}
    if "train" in splits and "test" not in splits:
        raise DatasetError(f"{path}: no readable image in a class of its test folder")
    # Every class needs images to learn from; with no split of its own, any image of it will do.
    filled = {members[place].label for place in kept if members[place].split != "test"}
    if empty := [label for label in labels if label not in filled]:
        reasons = [
            f"; {members[place].name}: {reason}"
            for place, reason in failures.items()
            if members[place].label in empty
        ]
        raise DatasetError(
            f"{path}: no readable training image of class {', '.join(empty)}{''.join(reasons[:1])}"
        )
    number = {label: target for target, label in enumerate(labels)}
    return {
        "labels": labels,
        "names": [members[place].name for place in kept],
        "splits": [members[place].split for place in kept],
        "targets": [number[members[place].label] for place in kept],
        "unreadable": [
            *((members[place].name, reason) for place, reason in sorted(failures.items())),
            *((name, "outside the folders of the classes") for name in layout.loose),
        ],
        "shape": shape,
    }


def _decode_chunk(chunk: list[tuple[str, bytes]], *, size: int, channels: int) -> list[bytes | str]:
    """Each image's pixels (S, S, C) as bytes, or why it has none. Runs in a worker process."""
    preprocessing = Preprocessing(size, channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    decoded: list[bytes | str] = []
    for _, data in chunk:
        try:
            decoded.append(preprocessing.resize(load_image(data)).tobytes())
        except ImageError as error:
            decoded.append(str(error))
    return decoded


def _chunks(files: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    chunk: list[tuple[str, bytes]] = []
    for file in files:
        chunk.append(file)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _run(
    decode: Callable[[list[tuple[str, bytes]]], list[bytes | str]],
    chunks: Iterable[list[tuple[str, bytes]]],
    workers: int,
    total: int,
) -> Iterator[tuple[list[str], list[bytes | str]]]:
    """Decode chunks in order, in parallel where that pays, with few chunks in memory at a time."""
    if workers < 2 or total < _POOL_FROM:
        for chunk in chunks:
            yield [name for name, _ in chunk], decode(chunk)
        return
    # Spawned, not forked: a forked child of a process with torch's threads can hang.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pending: deque[tuple[list[str], Future[list[bytes | str]]]] = deque()
        try:
            for chunk in chunks:
                with _interrupts_held():  # submitting starts the workers
                    future = pool.submit(decode, chunk)
                pending.append(([name for name, _ in chunk], future))
                if len(pending) > 2 * workers:
                    names, future = pending.popleft()
                    yield names, future.result()
            for names, future in pending:
                yield names, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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


# --- the splits -----------------------------------------------------------------------------------


def _split(
    targets: NDArray[np.int64], is_test: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Indices for fitting, hold-out and test; each class is divided alike and keeps one to fit."""
    rng = np.random.default_rng(_SPLIT_SEED)
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    if not len(test):
        train, test = _take(train, targets, TEST_SHARE, rng)
    fit, holdout = _take(train, targets, 0.02 if len(train) >= 10_000 else 0.1, rng)
    return fit, holdout, test


def _take(
    indices: NDArray[np.int64], targets: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide indices into the rest and a stratified share, one at least of a class that has two."""
    taken = []
    for target in np.unique(targets[indices]):
        members = indices[targets[indices] == target]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken.append(rng.permutation(members)[:count])
    share_indices = np.sort(np.concatenate(taken))
    return np.setdiff1d(indices, share_indices), share_indices

"""Decoded data sets on the disk: pixels that are memory-mapped, and an index that is checked.

A cache is a folder with `images.u8`, all pixels one image after the other, and `index.json`. It is
built beside its place and renamed, so that a reader sees all of it or nothing. One that is torn or
altered is not trusted and is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
import PIL
from numpy.typing import NDArray

from nin_edge.data.decode import Decoder
from nin_edge.data.errors import DatasetError
from nin_edge.data.layout import Contents, Member
from nin_edge.data.sources import Source
from nin_edge.data.split import split_images, take_test

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of images done and the total."""

_logger = logging.getLogger(__name__)

_VERSION: Final = 6  # of the cache's layout, and of which images are in which split
_PIXELS: Final = "images.u8"
_INDEX: Final = "index.json"
_BLOCK: Final = 1 << 22  # bytes that are hashed at a time: a mapped file need not fit memory


@dataclass(frozen=True)
class Index:
    """Everything about the N images of a cache but their pixels."""

    labels: tuple[str, ...]
    """Class names."""
    names: tuple[str, ...]
    """(N,), path of each image in the data set."""
    splits: tuple[str, ...]
    """(N,), `train`, `validation`, `test`, or empty where the data set names no splits."""
    targets: tuple[int, ...]
    """(N,), index of each image's class in the labels."""
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of each file that was left out."""
    shape: tuple[int, ...]
    """Of the pixels: (N, S, S, C)."""
    duplicates: tuple[tuple[str, str], ...] = ()
    """(path, path) of each test image and a training image with the same pixels."""
    contradictions: tuple[tuple[str, str], ...] = ()
    """(path, path) of images with the same pixels in different classes."""
    enlarged: int = 0
    """How many images had fewer pixels than S on a side."""
    fingerprint: str = ""
    """SHA-256 of labels, names, splits, targets and pixels, in hexadecimal."""

    def to_json(self) -> str:
        """The index as JSON, with a checksum of it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(values | {"checksum": _checksum(values)})

    @classmethod
    def from_json(cls, text: str) -> Index:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else, or was altered.
        """
        try:
            values = json.loads(text)
        except RecursionError:
            raise ValueError("JSON that is nested too deeply") from None
        if not isinstance(values, dict) or values.pop("checksum", "") != _checksum(values):
            raise ValueError("not an index, or altered")
        index = cls(
            labels=tuple(values["labels"]),
            names=tuple(values["names"]),
            splits=tuple(values["splits"]),
            targets=tuple(values["targets"]),
            unreadable=tuple((name, reason) for name, reason in values["unreadable"]),
            shape=tuple(values["shape"]),
            duplicates=tuple((test, train) for test, train in values["duplicates"]),
            contradictions=tuple((one, other) for one, other in values["contradictions"]),
            enlarged=values["enlarged"],
            fingerprint=values["fingerprint"],
        )
        index.check()
        return index

    def check(self) -> None:
        """Refuse what does not fit together: anyone can compute a checksum.

        Raises:
            ValueError: a list has another length, or a value another type or range.
        """
        count, texts = len(self.names), (*self.labels, *self.names, *self.splits)
        if not (
            len(self.shape) == 4
            and all(type(side) is int and side > 0 for side in self.shape)
            and self.shape[0] == count == len(self.splits) == len(self.targets)
            and all(type(number) is int for number in (*self.targets, self.enlarged))
            and 0 <= min(self.targets) <= max(self.targets) < len(self.labels)
            and all(isinstance(text, str) for text in texts)
        ):
            raise ValueError("its parts do not fit together")


@dataclass(frozen=True, eq=False)
class Cached:
    """A decoded data set."""

    index: Index
    """Labels, names, splits and targets."""
    images: NDArray[np.uint8]
    """(N, S, S, C), memory-mapped."""


def cache_key(source: Source, decided: str, size: int, channels: int) -> str:
    """Key that changes with any file and any setting of the decoding.

    Args:
        source: the files.
        decided: what was decided about them (`Location.decided`).
        size: side of the images.
        channels: their channels.
    """
    decoders = PIL.__version__ + _heif_version()
    settings = f"{_VERSION} {size} {channels} {decoders} {decided}\n"
    return hashlib.sha256(
        (settings + source.stamp()).encode("utf-8", "surrogateescape")
    ).hexdigest()[:20]


def _heif_version() -> str:
    """That of the package that reads HEIC images, which may be installed later."""
    with suppress(metadata.PackageNotFoundError):
        return f" and pillow-heif {metadata.version('pillow-heif')}"
    return ""


def load_cache(folder: Path, *, built_here: bool = False) -> Cached | None:
    """Open a cache; None where it is missing, torn, altered, or not of this user alone.

    Args:
        folder: of the cache.
        built_here: it was just built by this process. Some file systems, as of USB sticks, know no
            owners.
    """
    if not built_here and not _is_private(folder):
        return None
    try:
        index = Index.from_json((folder / _INDEX).read_text("utf-8"))
        if (folder / _PIXELS).stat().st_size != math.prod(index.shape):
            return None
        images = _mapped(folder / _PIXELS, index.shape)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Cached(index, images) if _fingerprint(images, index) == index.fingerprint else None


def _is_private(folder: Path) -> bool:
    """Whether only this user could have written a cache: `XDG_CACHE_HOME` may be shared."""
    if not hasattr(os, "getuid"):  # Windows has lists of permissions instead
        return True
    try:
        found = [path.lstat() for path in (folder, folder / _PIXELS, folder / _INDEX)]
        parent = folder.parent.stat()  # whoever can write to it can exchange one cache for another
    except OSError:
        return False
    if parent.st_uid not in (os.getuid(), 0) or (
        parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX
    ):
        _logger.warning(
            "%s: the caches in it are not used, other users can write to it; set XDG_CACHE_HOME to "
            "a folder of your own",
            folder.parent,
        )
        return False
    return (
        stat.S_ISDIR(found[0].st_mode)
        and all(stat.S_ISREG(file.st_mode) for file in found[1:])
        and all(entry.st_uid == os.getuid() for entry in found)
        and not found[0].st_mode & stat.S_IWGRP
        and not any(entry.st_mode & stat.S_IWOTH for entry in found)
    )


def build_cache(
    folder: Path,
    path: Path,
    contents: Contents,
    decoder: Decoder,
    *,
    test_share: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Decode a data set into a temporary folder, then put that in place in one step.

    Args:
        folder: of the cache; `locked` for this process.
        path: of the data set, for messages.
        contents: its images.
        decoder: gives them their size.
        test_share: part of the training split that becomes the test split; None: as the data say.
        progress: called with how decoding goes.

    Raises:
        DatasetError: no readable image, or none in a split.
    """
    members = sorted(contents.members, key=lambda member: (member.split, member.label, member.name))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
        part = Path(temporary)
        with (part / _PIXELS).open("wb+") as file:
            failures, enlarged = _decode_into(file, members, contents, decoder, progress)
            kept = [place for place in range(len(members)) if place not in failures]
            _close_gaps(file, kept, decoder.row)
            file.flush()
            os.fsync(file.fileno())
        readable = [members[place] for place in kept]
        unreadable = [(members[place].name, reason) for place, reason in sorted(failures.items())]
        _check(path, contents, readable, unreadable)
        shape = (len(readable), decoder.size, decoder.size, decoder.channels)
        index = _index(_mapped(part / _PIXELS, shape), contents, readable, unreadable, test_share)
        index = replace(index, enlarged=len(enlarged.difference(failures)))
        (part / _INDEX).write_text(index.to_json(), "utf-8")
        if folder.is_symlink():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)  # stale or torn: never trusted
        part.rename(folder)
        part.mkdir(exist_ok=True)  # for TemporaryDirectory to remove


def _decode_into(
    file: BinaryIO,
    members: Sequence[Member],
    contents: Contents,
    decoder: Decoder,
    progress: Progress | None,
) -> tuple[dict[int, str], set[int]]:
    """Write each image's pixels at its index.

    Returns:
        The reason of each failure by index, and the indices of images that were enlarged.
    """
    done = 0
    places = {member.name: place for place, member in enumerate(members)}
    failures: dict[int, str] = {}
    enlarged: set[int] = set()
    for names, decoded in decoder(contents.read(), total=len(members)):
        for name, image in zip(names, decoded, strict=True):
            place = places[name]
            if isinstance(image, str):
                failures[place] = image
                continue
            file.seek(place * decoder.row)
            file.write(image.pixels)
            failures.pop(place, None)  # of two copies in a tar the last one counts
            (enlarged.add if image.enlarged else enlarged.discard)(place)
        done += len(names)
        if progress:
            progress(done, len(members))
    file.truncate(len(members) * decoder.row)
    return failures, enlarged


def _close_gaps(file: BinaryIO, kept: Sequence[int], row: int) -> None:
    """Move the decoded rows together, over those of unreadable images."""
    for new, old in enumerate(kept):
        if new != old:
            file.seek(old * row)
            pixels = file.read(row)
            file.seek(new * row)
            file.write(pixels)
    file.truncate(len(kept) * row)


def _check(
    path: Path,
    contents: Contents,
    readable: Sequence[Member],
    unreadable: Sequence[tuple[str, str]],
) -> None:
    """Refuse what cannot be opened."""
    if not readable:
        name, reason = unreadable[0]
        raise DatasetError(f"{path}: no readable image; {name}: {reason}")
    filled = {member.split for member in readable}
    if empty := [split for split in contents.splits if split not in filled]:
        raise DatasetError(
            f"{path}: no readable image in a class of its {empty[0]} split, expected "
            f"{empty[0]}/<class>/*"
        )


def _index(
    images: NDArray[np.uint8],
    contents: Contents,
    readable: Sequence[Member],
    unreadable: Sequence[tuple[str, str]],
    test_share: float | None,
) -> Index:
    """The index of decoded images (N, S, S, C)."""
    number = {label: target for target, label in enumerate(contents.labels)}
    targets = tuple(number[member.label] for member in readable)
    splits = tuple(member.split for member in readable)
    index = Index(
        labels=contents.labels,
        names=tuple(member.name for member in readable),
        splits=take_test(np.array(targets), splits, test_share) if test_share else splits,
        targets=targets,
        unreadable=(*unreadable, *contents.unclassed),
        shape=images.shape,
    )
    digests = _digests(images)
    return replace(
        index,
        duplicates=_duplicates(images, index, digests),
        contradictions=_contradictions(images, index, digests),
        fingerprint=_fingerprint(images, index),
    )


def _digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A number for each image, (N,): images with the same pixels have the same."""
    return np.array(
        [
            int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "big")
            for image in images
        ],
        dtype=np.uint64,
    )


def _duplicates(
    images: NDArray[np.uint8], index: Index, digests: NDArray[np.uint64]
) -> tuple[tuple[str, str], ...]:
    """Names of each test image and of the first training image with the same pixels."""
    split = split_images(np.array(index.targets, dtype=np.int64), index.splits)
    train = np.concatenate([split.train, split.holdout])
    if not len(train):
        return ()
    train = train[np.argsort(digests[train], kind="stable")]
    first = np.minimum(np.searchsorted(digests[train], digests[split.test]), len(train) - 1)
    return tuple(
        (index.names[tested], index.names[trained])
        for tested, trained in zip(split.test, train[first], strict=True)
        if digests[tested] == digests[trained] and np.array_equal(images[tested], images[trained])
    )


def _contradictions(
    images: NDArray[np.uint8], index: Index, digests: NDArray[np.uint64]
) -> tuple[tuple[str, str], ...]:
    """Names of each image, and of the first with the same pixels where that has another class."""
    order = np.argsort(digests, kind="stable")
    first = order[np.searchsorted(digests[order], digests)]  # of those with the same digest
    targets = np.array(index.targets)
    return tuple(
        (index.names[place], index.names[first[place]])
        for place in np.flatnonzero(targets != targets[first])
        if np.array_equal(images[place], images[first[place]])
    )


def _fingerprint(images: NDArray[np.uint8], index: Index) -> str:
    """Identity of a data set; checkpoints carry it, so its definition never changes."""
    described = [index.labels, index.names, index.splits, index.targets]
    digest = hashlib.sha256(json.dumps(described).encode())
    pixels = images.reshape(-1)
    for start in range(0, len(pixels), _BLOCK):
        digest.update(pixels[start : start + _BLOCK].data)
    return digest.hexdigest()


def _checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 of an index's values; the fingerprint among them covers the pixels."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _mapped(pixels: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.memmap(pixels, dtype=np.uint8, mode="r", shape=shape)

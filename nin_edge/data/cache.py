"""Decoded data sets on the disk: pixels that are memory-mapped, and an index that is checked.

A cache is a folder with `images.u8`, all pixels one image after the other, and `index.json`. It is
built beside its place and renamed, so that a reader sees all of it or nothing. One that is torn or
altered is not trusted and is built again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
import PIL
from numpy.typing import NDArray

from nin_edge.data.decode import Decoder
from nin_edge.data.errors import DatasetError
from nin_edge.data.layout import Contents, Member
from nin_edge.data.sources import Source
from nin_edge.data.split import split_images

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of images done and the total."""

_VERSION: Final = 4  # of the cache's layout, and of which images are in which split
_ABANDONED_SECONDS: Final = 86_400.0  # no build takes a day
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
    """(N,), `train`, `test`, or empty where the data set names no splits."""
    targets: tuple[int, ...]
    """(N,), index of each image's class in the labels."""
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of each file that was left out."""
    shape: tuple[int, ...]
    """Of the pixels: (N, S, S, C)."""
    duplicates: tuple[tuple[str, str], ...] = ()
    """(path, path) of each test image and a training image with the same pixels."""
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
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop("checksum", "") != _checksum(values):
            raise ValueError("not an index, or altered")
        return cls(
            labels=tuple(values["labels"]),
            names=tuple(values["names"]),
            splits=tuple(values["splits"]),
            targets=tuple(values["targets"]),
            unreadable=tuple((name, reason) for name, reason in values["unreadable"]),
            shape=tuple(values["shape"]),
            duplicates=tuple((test, train) for test, train in values["duplicates"]),
            fingerprint=values["fingerprint"],
        )


@dataclass(frozen=True, eq=False)
class Cached:
    """A decoded data set."""

    index: Index
    """Labels, names, splits and targets."""
    images: NDArray[np.uint8]
    """(N, S, S, C), memory-mapped."""


def default_cache() -> Path:
    """Folder of the caches and the downloads."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nin-edge"


def cache_key(source: Source, official: str | None, size: int, channels: int) -> str:
    """Text that changes whenever a file does, or anything that decides how it is read."""
    settings = f"{_VERSION} {size} {channels} {PIL.__version__} {official}\n"
    return hashlib.sha256(
        (settings + source.stamp()).encode("utf-8", "surrogateescape")
    ).hexdigest()[:20]


def load_cache(folder: Path) -> Cached | None:
    """Open a cache; None where it is missing, torn or altered."""
    try:
        index = Index.from_json((folder / _INDEX).read_text("utf-8"))
        if (folder / _PIXELS).stat().st_size != math.prod(index.shape):
            return None
        images = _mapped(folder / _PIXELS, index.shape)
    except (OSError, ValueError):
        return None
    return Cached(index, images) if _fingerprint(images, index) == index.fingerprint else None


def build_cache(
    folder: Path, path: Path, contents: Contents, decoder: Decoder, progress: Progress | None
) -> None:
    """Decode a data set into a temporary folder, then put that in place in one step.

    Args:
        folder: of the cache.
        path: of the data set, for messages.
        contents: its images.
        decoder: gives them their size.
        progress: told how decoding goes.

    Raises:
        DatasetError: fewer than two classes, or a class without a readable training image.
    """
    members = sorted(contents.members, key=lambda member: (member.split, member.label, member.name))
    _prepare(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
        part = Path(temporary)
        with (part / _PIXELS).open("wb+") as file:
            failures = _decode_into(file, members, contents, decoder, progress)
            kept = [place for place in range(len(members)) if place not in failures]
            _close_gaps(file, kept, decoder.row)
            file.flush()
            os.fsync(file.fileno())
        readable = [members[place] for place in kept]
        unreadable = [(members[place], reason) for place, reason in sorted(failures.items())]
        _check(path, contents.labels, readable, unreadable)
        shape = (len(readable), decoder.size, decoder.size, decoder.channels)
        index = _index(_mapped(part / _PIXELS, shape), contents, readable, unreadable)
        (part / _INDEX).write_text(index.to_json(), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # stale or torn: never trusted
        try:
            part.rename(folder)
        except OSError:
            if load_cache(folder) is None:  # another process was first only if its cache is sound
                raise
        part.mkdir(exist_ok=True)  # for TemporaryDirectory to remove


def _prepare(folder: Path) -> None:
    """Make the folder of the caches, and remove what killed processes left unfinished there."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(".building-*"):
        if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(part, ignore_errors=True)


def _decode_into(
    file: BinaryIO,
    members: Sequence[Member],
    contents: Contents,
    decoder: Decoder,
    progress: Progress | None,
) -> dict[int, str]:
    """Write the pixels of each member at its place; the reason for each place that has none."""
    done = 0
    places = {member.name: place for place, member in enumerate(members)}
    failures: dict[int, str] = {}
    for names, decoded in decoder(contents.read(), total=len(members)):
        for name, pixels in zip(names, decoded, strict=True):
            if isinstance(pixels, str):
                failures[places[name]] = pixels
            else:
                file.seek(places[name] * decoder.row)
                file.write(pixels)
                failures.pop(places[name], None)  # of two copies in a tar the last one counts
        done += len(names)
        if progress:
            progress(done, len(members))
    file.truncate(len(members) * decoder.row)
    return failures


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
    labels: Sequence[str],
    readable: Sequence[Member],
    unreadable: Sequence[tuple[Member, str]],
) -> None:
    """Refuse what cannot be trained on."""
    if len(labels) < 2:
        raise DatasetError(
            f"{path}: {len(labels)} class{'' if len(labels) == 1 else 'es'}"
            f"{f' ({labels[0]})' if labels else ''}, expected a folder for each of at least two"
        )
    splits = {member.split for member in readable}
    if "train" in splits and "test" not in splits:
        raise DatasetError(f"{path}: no readable image in a class of its test folder")
    # Every class needs a training image; without named splits, any image of it can be one.
    filled = {member.label for member in readable if member.split != "test"}
    if empty := [label for label in labels if label not in filled]:
        reasons = [
            f"; {member.name}: {reason}" for member, reason in unreadable if member.label in empty
        ]
        raise DatasetError(
            f"{path}: no readable training image of class {', '.join(empty)}{''.join(reasons[:1])}"
        )


def _index(
    images: NDArray[np.uint8],
    contents: Contents,
    readable: Sequence[Member],
    unreadable: Sequence[tuple[Member, str]],
) -> Index:
    """The index of decoded images (N, S, S, C)."""
    number = {label: target for target, label in enumerate(contents.labels)}
    index = Index(
        labels=contents.labels,
        names=tuple(member.name for member in readable),
        splits=tuple(member.split for member in readable),
        targets=tuple(number[member.label] for member in readable),
        unreadable=(
            *((member.name, reason) for member, reason in unreadable),
            *((name, "outside the folders of the classes") for name in contents.unclassed),
        ),
        shape=images.shape,
    )
    return replace(
        index, duplicates=_duplicates(images, index), fingerprint=_fingerprint(images, index)
    )


def _duplicates(images: NDArray[np.uint8], index: Index) -> tuple[tuple[str, str], ...]:
    """Names of each test image and of the first training image with the same pixels."""
    digests = np.array(
        [
            int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "big")
            for image in images
        ],
        dtype=np.uint64,
    )
    split = split_images(np.array(index.targets, dtype=np.int64), index.splits)
    train = np.concatenate([split.train, split.holdout])
    train = train[np.argsort(digests[train], kind="stable")]
    first = np.minimum(np.searchsorted(digests[train], digests[split.test]), len(train) - 1)
    return tuple(
        (index.names[tested], index.names[trained])
        for tested, trained in zip(split.test, train[first], strict=True)
        if digests[tested] == digests[trained] and np.array_equal(images[tested], images[trained])
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

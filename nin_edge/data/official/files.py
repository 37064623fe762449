"""The files that an official data set is published as, and what is read from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nin_edge.data.errors import DatasetError
from nin_edge.data.sources import Source
from nin_edge_runtime import ImageError


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one split, in the order of their file."""

    split: str
    """`train` or `test`."""
    pixels: NDArray[np.uint8]
    """(N, H, W, C)."""
    targets: NDArray[np.int64]
    """(N,), indices into the labels."""


@dataclass(frozen=True)
class OfficialData:
    """Everything in an official data set."""

    labels: tuple[str, ...]
    """Class names in the data set's own order."""
    parts: tuple[Part, ...]
    """The images; the training split first."""


@dataclass(frozen=True)
class FileSet:
    """One form that a data set is published in: the names of its files."""

    official: str
    """A key of `OFFICIAL`; `mnist` for all idx files."""
    train: tuple[str, ...]
    """Files with the training images, in their order."""
    test: tuple[str, ...]
    """Files with the test images."""
    labels: str | None
    """File with the class names; None where the publisher's page alone has them."""
    read: Callable[[str, FileSet, OfficialFiles], OfficialData]
    """Reads the files as the data set of that name."""

    def names(self) -> tuple[str, ...]:
        """All files that have to be there."""
        return (*self.train, *self.test, *([self.labels] if self.labels else []))

    def by_split(self) -> list[tuple[str, str]]:
        """Split and name of each file with images."""
        return [("train", name) for name in self.train] + [("test", name) for name in self.test]


class OfficialFiles:
    """The bytes of the files, each given once, so that few of them are in memory at a time."""

    def __init__(self, path: Path, source: Source, members: Mapping[str, str]) -> None:
        """Read them.

        Args:
            path: of the source, for messages.
            source: what they lie in.
            members: path of each file in the source, by its official name.
        """
        self._path, self._members = path, members
        self._data = dict(source.read(set(members.values())))

    @contextmanager
    def taken(self, name: str) -> Iterator[bytes]:
        """Give the bytes of a file; an error while they are read becomes one that names it.

        Raises:
            DatasetError: the reader found the bytes damaged.
        """
        member = self._members[name]
        try:
            data = self._data.pop(member)
            if isinstance(data, ImageError):  # too large
                raise data
            yield data
        except (ValueError, OSError, EOFError, MemoryError) as error:
            raise DatasetError(f"{self._path}: {member}: {error or 'too large'}") from error
        except Exception as error:  # zlib.error has no common base with these
            raise DatasetError(f"{self._path}: {member}: damaged ({error})") from error


def checked_targets(numbers: Sequence[int] | NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Class numbers as an array (N,).

    Raises:
        ValueError: one of them is not between 0 and `classes` - 1.
    """
    try:
        targets = np.array(numbers, dtype=np.int64)
    except OverflowError:
        raise ValueError("a label that is no class") from None
    outside = np.flatnonzero((targets < 0) | (targets >= classes))
    if len(outside):
        first = outside[0]
        raise ValueError(f"label {targets[first]} of image {first:,}, expected 0 to {classes - 1}")
    return targets

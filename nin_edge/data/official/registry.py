"""The official data sets: CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST, known by their files.

Fashion-MNIST and MNIST share file names and format. The name of the folder or archive, of the
folder above it or of one in it distinguishes them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from nin_edge.data.errors import DatasetError
from nin_edge.data.official.cifar import read_binary, read_python
from nin_edge.data.official.files import FileSet, OfficialData, OfficialFiles
from nin_edge.data.official.idx import read_idx
from nin_edge.data.sources import Source

OFFICIAL: Final = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
}
"""The data sets that are known by name, and their titles."""

NATIVE_SHAPES: Final = {
    "cifar10": (32, 3),
    "cifar100": (32, 3),
    "mnist": (28, 1),
    "fashion-mnist": (28, 1),
}
"""Side and channels of their images."""

ARCHIVES: Final = {
    "cifar-10-binary.tar.gz": "cifar10",
    "cifar-10-python.tar.gz": "cifar10",
    "cifar-100-binary.tar.gz": "cifar100",
    "cifar-100-python.tar.gz": "cifar100",
}
"""File names that archives are published under; a folder that holds one stands for it."""

_FILE_SETS: Final = (  # of each data set, the simpler form first
    FileSet(
        "cifar10",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        read_binary,
    ),
    FileSet(
        "cifar10",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        read_python,
    ),
    FileSet("cifar100", ("train.bin",), ("test.bin",), "fine_label_names.txt", read_binary),
    FileSet("cifar100", ("train",), ("test",), "meta", read_python),
    FileSet(
        "mnist",
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        None,
        read_idx,
    ),
)


@dataclass(frozen=True)
class FoundFiles:
    """Files of an official data set in one folder of a source."""

    official: str
    """A key of `OFFICIAL`."""
    members: Mapping[str, str]
    """Path of each file in the source, by its official name."""
    file_set: FileSet
    """The form that they are of."""

    def missing(self) -> list[str]:
        """Official names of the files that are not there."""
        return [name for name in self.file_set.names() if name not in self.members]


def recognise(path: Path, names: Sequence[str], *, has_images: bool = False) -> str | None:
    """Find out which official data set a source is.

    Args:
        path: the folder or archive; its name can tell Fashion-MNIST from MNIST.
        names: what is in it, see `Listing.names`.
        has_images: whether there are image files too, which make it a folder of images if no
            official data set is complete.

    Returns:
        A key of `OFFICIAL`; None if no file of an official data set is there.

    Raises:
        DatasetError: files are missing, or it could be several things.
    """
    candidates = list(_candidates(path, names))
    if has_images:
        candidates = [candidate for candidate in candidates if not candidate.missing()]
    if not candidates:
        return None
    titles = [OFFICIAL[name] for name in sorted({candidate.official for candidate in candidates})]
    if len(titles) + has_images > 1:
        raise DatasetError(
            f"{path}: holds {' and '.join([*titles, *['image files'] * has_images])}; "
            "say which by --dataset, or name the folder of one"
        )
    return _choose(path, candidates, candidates[0].official).official


def find_files(path: Path, names: Sequence[str], official: str) -> FoundFiles:
    """Find the files of an official data set.

    Args:
        path: the folder or archive.
        names: what is in it, see `Listing.names`.
        official: a key of `OFFICIAL`, which it has to be.

    Raises:
        DatasetError: files are missing, or the data set is there more than once.
    """
    published_as = "mnist" if official == "fashion-mnist" else official
    candidates = list(_candidates(path, names))
    named = [candidate for candidate in candidates if candidate.official == official]
    # A folder whose name says nothing can be forced to be Fashion-MNIST.
    chosen = named or [one for one in candidates if one.file_set.official == published_as]
    if not chosen:
        forms = [form.names() for form in _FILE_SETS if form.official == published_as]
        raise DatasetError(
            f"{path}: not {OFFICIAL[official]}, expected the files "
            + " or ".join(", ".join(form) for form in forms)
        )
    return _choose(path, chosen, official)


def read_official(path: Path, source: Source, official: str) -> OfficialData:
    """Read an official data set.

    Raises:
        DatasetError: it is not there, or a file is missing or damaged; the message names it.
    """
    found = find_files(path, source.listing.names, official)
    files = OfficialFiles(path, source, found.members)
    return found.file_set.read(official, found.file_set, files)


def is_one_of_several(name: str) -> bool:
    """Whether a file name is that of one file of an official data set that has more."""
    return any(_official_name(name) in file_set.names() for file_set in _FILE_SETS)


def _choose(path: Path, candidates: Sequence[FoundFiles], official: str) -> FoundFiles:
    """The simplest form among candidates of one data set; it has to be complete and there once."""
    chosen = candidates[0]
    if sum(candidate.file_set is chosen.file_set for candidate in candidates) > 1:
        raise DatasetError(
            f"{path}: holds {OFFICIAL[chosen.official]} more than once, name the folder of one"
        )
    if missing := chosen.missing():
        raise DatasetError(
            f"{path}: an incomplete {OFFICIAL[official]}, without {', '.join(missing)}"
        )
    return chosen


def _candidates(path: Path, names: Sequence[str]) -> Iterator[FoundFiles]:
    """Every folder of the source with at least two files of a form, simpler forms first."""
    folders: dict[PurePosixPath, dict[str, str]] = defaultdict(dict)
    for name in names:
        inner = PurePosixPath(name)
        if name.endswith("/") or any(
            part.startswith(".") or part == "__MACOSX" for part in inner.parts
        ):
            continue
        # A file comes before its .gz.
        folders[inner.parent].setdefault(_official_name(inner.name), name)
    fashion = _is_named_fashion(path)
    for file_set in _FILE_SETS:
        for folder, files in folders.items():
            members = {name: files[name] for name in file_set.names() if name in files}
            if len(members) < 2:
                continue
            official = file_set.official
            if official == "mnist" and (fashion or any(map(_is_fashion, folder.parts))):
                official = "fashion-mnist"
            yield FoundFiles(official, members, file_set)


def _official_name(name: str) -> str:
    """A file's name as it is published; `train-images.idx3-ubyte` is as common for MNIST's."""
    dashed = re.sub(r"(?<=-(?:images|labels))\.(?=idx\d-ubyte)", "-", name)
    return re.sub(r"(?<=-ubyte)\.gz$", "", dashed)


def _is_named_fashion(path: Path) -> bool:
    """Whether the name of a folder or archive, or of the folder above it, is Fashion-MNIST's."""
    real = path.resolve()
    return any(_is_fashion(name) for name in (real.name, real.parent.name))


def _is_fashion(name: str) -> bool:
    return re.search(r"fashion[-_. ]?mnist", name, re.IGNORECASE) is not None

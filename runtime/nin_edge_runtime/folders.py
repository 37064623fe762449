"""Which files of a folder or archive are images: one rule, for `run` on a device and for training.

Links are followed once. What the system, a camera or nin-edge itself left among the photos is
passed over and counted; what cannot be read is named.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from posixpath import splitext
from typing import Final

from nin_edge_runtime.errors import ImageError

IMAGE_SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"}
)
"""Endings, in lower case, of the files that are images whatever their content is."""

MARKER: Final = ".nin-edge"
"""File in a folder that nin-edge wrote to: a JSON list of its files there; anything else is all."""

LOCK: Final = ".nin-edge.lock"
"""File in a folder that a training has reserved: all of the folder will be its."""

MARKER_BYTES: Final = 16 << 20
"""How much of a marker is read; a longer one stands for all of its folder."""

HEAD_BYTES: Final = 32
"""How much of a file's start shows what it is."""

_MAGIC: Final = (
    *(b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"\xff\xd8\xff", b"qoif"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),  # JPEG 2000
)
_TIFF: Final = (b"II*\0", b"MM\0*")  # also the start of most cameras' raw files
_HEIC_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS: Final = (b"avif", b"avis")

# In lower case. Folders of macOS, Windows, Android, Synology, QNAP and of Python.
_SYSTEM_FOLDERS: Final = frozenset(
    {"__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"}
    | {"$recycle.bin", "recycler", "recycled", "system volume information", "lost+found"}
    | {"~snapshot", "@__thumb", "@sharebin", *(f"found.{number:03}" for number in range(100))}
    | {"lost.dir", "network trash folder", "temporary items", "__pycache__"}
)
_COPY_SUFFIXES: Final = ("~", "_original", ".bak", ".orig", ".tmp", ".part", ".crdownload")

_NO_IMAGE: Final = ("file", "without an image's suffix or content")
_LINK: Final = ("link", "to a folder above or read before")
_SPECIAL: Final = ("pipe, socket or device", "")
_OURS: Final = "that nin-edge wrote"
_NAMED: Final = 5  # folders without images

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """What a folder or archive holds."""

    names: tuple[str, ...]
    """Paths of its files, and of its folders with a slash at the end; sorted."""
    images: frozenset[str]
    """The files among them that are images."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(path, reason) of each image, folder or link that cannot be read."""
    without_images: frozenset[str] = frozenset()
    """The folders among `names` that have files, but no image."""
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How much of what (noun, description) is not in `names`, or is no image."""

    def images_by_folder(self) -> list[str]:
        """The images, those of each folder together."""
        return sorted(self.images, key=lambda name: name.split("/"))

    def passed_over(self) -> str:
        """What was passed over and why, in words; empty if nothing was."""
        return ", ".join(
            f"{count:,} {noun}{'s' * (count > 1)} {description}".rstrip()
            for (noun, description), count in sorted(self.passed.items())
        )


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """List the given files, and the images of the given folders, sorted; see `list_folder`.

    What cannot be read in a folder is logged.

    Raises:
        ImageError: a folder has no images, or cannot be read.
    """
    images: list[Path] = []
    for path in map(Path, paths):
        try:
            is_folder = path.is_dir()
        except OSError:  # a name that is too long, a folder that may not be searched
            is_folder = False
        if not is_folder:
            images.append(path)
            continue
        listing = list_images(path)
        for name, reason in listing.unreadable:
            _logger.warning("%s: %s", path / name, reason)
        images += [path / name for name in listing.images_by_folder()]
    return images


def list_images(folder: Path) -> Listing:
    """List a folder that has images, or parts that cannot be read.

    Raises:
        ImageError: it has neither, or cannot be read itself.
    """
    try:
        listing = list_folder(folder)
    except OSError as error:
        raise ImageError(f"{folder}: {error.strerror or error}") from error
    if not listing.images and not listing.unreadable:
        passed = listing.passed_over()
        raise ImageError(
            f"{folder}: a folder with no image files (such as .jpg or .png) in it"
            + (f", only {passed}" if passed else "")
        )
    return listing


def list_folder(folder: Path) -> Listing:
    """List a folder with everything below it.

    Raises:
        OSError: the folder itself cannot be read.
    """
    walk = _Walk(folder)
    unknown: dict[str, str] = {}  # what these are cannot be found out

    def head(name: str) -> bytes:
        try:
            return _head(folder / name)
        except OSError as error:
            unknown[name] = error.strerror or str(error)
            return b""

    listing = list_names(walk.names, head)
    denied = {name for name in listing.images if not os.access(f"{folder}/{name}", os.R_OK)}
    unreadable = walk.unreadable | unknown | dict.fromkeys(denied, "no permission to read it")
    return replace(
        listing,
        images=listing.images - denied,
        unreadable=tuple(sorted(unreadable.items())),
        passed=listing.passed + walk.passed - Counter({_NO_IMAGE: len(unknown)}),
    )


def list_names(names: Iterable[str], head: Callable[[str], bytes]) -> Listing:
    """Find the images among names of files.

    Args:
        names: paths, those of folders with a slash at the end.
        head: gives the first `HEAD_BYTES` of a file, `MARKER_BYTES` of a `MARKER`.
    """
    entries = {name: _parts(name) for name in names}
    written: dict[tuple[str, ...], frozenset[str] | None] = {}
    for name, parts in entries.items():
        if parts and parts[-1] in (MARKER, LOCK):
            own = written_names(head(name)) if parts[-1] == MARKER else None
            written[parts[:-1]] = own if written.get(parts[:-1], own) is not None else None
        elif parts and parts[-1].startswith(f"{MARKER}-"):  # the lock of an export
            written.setdefault(parts[:-1], frozenset())
    kept: dict[str, tuple[str, ...]] = {}
    passed: dict[tuple[str, ...], tuple[str, str]] = {}
    for name, parts in entries.items():
        if not parts or parts[-1] not in (MARKER, LOCK):
            reason, depth = _reason_to_pass(parts, written, is_folder=name.endswith("/"))
            if reason is None:
                kept[name] = parts
            else:
                passed[parts[:depth]] = reason
    ours = {parts[:-1] for parts, (_, why) in passed.items() if why == _OURS}
    _drop_emptied(kept, {*written, *ours})
    files = [name for name in kept if not name.endswith("/")]
    images = frozenset(name for name in files if _is_image(name, head))
    barren = _without_images((kept[name] for name in files), (kept[name] for name in images))
    counts = Counter(passed.values())
    counts[_NO_IMAGE] = len(files) - len(images)
    if images and (tops := sorted("/".join(parts) for parts in barren if parts[:-1] not in barren)):
        more = ", ..." if len(tops) > _NAMED else ""
        counts["folder", f"without images ({', '.join(tops[:_NAMED])}{more})"] = len(tops)
    return Listing(
        tuple(sorted(kept)),
        images,
        without_images=frozenset(
            name for name, parts in kept.items() if name.endswith("/") and parts in barren
        ),
        passed=+counts,
    )


def has_image_suffix(name: str) -> bool:
    """Whether a file's name alone says that it is an image."""
    return _suffix(name) in IMAGE_SUFFIXES


def written_names(marker: bytes) -> frozenset[str] | None:
    """The names in a marker; None if all of its folder was written by nin-edge."""
    try:
        names = json.loads(marker) if len(marker) < MARKER_BYTES else None
        return frozenset(map(str, names)) if isinstance(names, list) else None
    except (ValueError, RecursionError):
        return None


def image_format(head: bytes) -> str | None:
    """What a file is by its first bytes: `HEIC`, `AVIF`, `TIFF`, another `image`; None if none."""
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[start : start + 4] for start in range(16, len(head) - 3, 4))}
        if not brands.isdisjoint(_AVIF_BRANDS):
            return "AVIF"
        return "HEIC" if not brands.isdisjoint(_HEIC_BRANDS) else None
    if head.startswith(_TIFF):
        return "TIFF"
    if (
        head.startswith(_MAGIC)
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head.startswith(b"BM") and head[6:10] == bytes(4) and len(head) >= 26)
    ):
        return "image"
    return None


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path; pathlib's own take most of the time of a listing."""
    return tuple(part for part in name.split("/") if part not in ("", "."))


def _suffix(name: str) -> str:
    """The suffix of a file's name, in lower case."""
    return splitext(name)[1].lower()


def _reason_to_pass(
    parts: tuple[str, ...],
    written: Mapping[tuple[str, ...], frozenset[str] | None],
    *,
    is_folder: bool,
) -> tuple[tuple[str, str] | None, int]:
    """Why an entry is passed over, None if it is not; and how many parts of its path that covers.

    Args:
        parts: of its path.
        written: names in each marker by the parts of its folder; None for all of the folder.
        is_folder: whether it is one.
    """
    for depth, part in enumerate(parts, 1):
        inner = is_folder or depth < len(parts)
        if part.startswith("."):
            return ("hidden folder" if inner else "hidden file", ""), depth
        if inner and part.lower() in _SYSTEM_FOLDERS:
            return ("system folder", f"({part})"), depth
        if inner and written.get(parts[:depth], frozenset()) is None:
            return ("folder", _OURS), depth
    if parts and not is_folder and parts[-1] in (written.get(parts[:-1]) or ()):
        return ("file", _OURS), len(parts)
    return None, len(parts)


def _drop_emptied(kept: dict[str, tuple[str, ...]], folders: set[tuple[str, ...]]) -> None:
    """Remove those of some folders that have nothing left in them: they are no classes."""
    for folder in sorted(folders, key=len, reverse=True):
        for depth in range(len(folder), 0, -1):
            top = folder[:depth]
            if any(len(parts) > depth and parts[:depth] == top for parts in kept.values()):
                break
            for name in [name for name, parts in kept.items() if parts == top]:
                del kept[name]


def _without_images(
    files: Iterable[tuple[str, ...]], images: Iterable[tuple[str, ...]]
) -> set[tuple[str, ...]]:
    """The folders above files that are above no image; all as the parts of their paths."""
    above_files, above_images = (
        {folder[:depth] for folder in folders for depth in range(1, len(folder) + 1)}
        for folders in ({parts[:-1] for parts in files}, {parts[:-1] for parts in images})
    )
    return above_files - above_images


def _is_image(name: str, head: Callable[[str], bytes]) -> bool:
    """Whether a file is an image: by its suffix, else by its content."""
    if has_image_suffix(name):
        return True
    suffix = _suffix(name)
    if name.lower().endswith(_COPY_SUFFIXES) or _is_other_suffix(suffix):
        return False
    found = image_format(head(name))
    return found is not None and (found != "TIFF" or not suffix or suffix.startswith(".tif"))


@cache
def _is_other_suffix(suffix: str) -> bool:
    """Whether a suffix is well known, and not one of images."""
    from mimetypes import MimeTypes  # few folders need it

    known = MimeTypes().types_map[True].get(suffix)
    return known is not None and not known.startswith("image/")


class _Walk:
    """All names below a folder, but those inside folders that are passed over anyway."""

    def __init__(self, top: Path) -> None:
        """Walk.

        Raises:
            OSError: the folder itself cannot be read.
        """
        self.names: list[str] = []
        self.unreadable: dict[str, str] = {}
        self.passed: Counter[tuple[str, str]] = Counter()
        self._top = top
        self._folders, self._links = deque[str](), deque[str]()
        root = os.path.realpath(top)
        seen = {root}
        self._read("")
        while self._folders or self._links:
            # Links last: a folder counts under its own name, not under that of a link to it.
            name = (self._folders or self._links).popleft()
            real = os.path.realpath(top / name)
            if real in seen or root.startswith(real.rstrip(os.sep) + os.sep):
                self.passed[_LINK] += 1
                continue
            seen.add(real)
            try:
                self._read(name)
                self.names.append(f"{name}/")
            except OSError as error:
                self.unreadable[f"{name}/"] = error.strerror or str(error)

    def _read(self, folder: str) -> None:
        """Sort in what a folder holds."""
        with os.scandir(self._top / folder) as scanned:
            children = sorted(scanned, key=lambda child: child.name)
        signs = {child.name for child in children} & {MARKER, LOCK} if folder else set()
        marker = _head(self._top / folder / MARKER) if MARKER in signs else b"[]"
        if LOCK in signs or written_names(marker) is None:
            self.names += [f"{folder}/{sign}" for sign in signs]
            return
        for child in children:
            path = f"{folder}/{child.name}" if folder else child.name
            try:
                self._sort_in(child, path)
            except OSError as error:  # a link to itself, a folder on the way without permission
                self.unreadable[path] = error.strerror or str(error)

    def _sort_in(self, child: os.DirEntry[str], path: str) -> None:
        if child.name.startswith(".") or child.name.lower() in _SYSTEM_FOLDERS:
            self.names.append(f"{path}/" if child.is_dir(follow_symlinks=False) else path)
        elif child.is_dir():
            (self._links if child.is_symlink() else self._folders).append(path)
        elif child.is_file():
            self.names.append(path)
        elif child.is_symlink() and not os.path.exists(child.path):  # noqa: PTH110  # no Path of it
            if has_image_suffix(path) or not _suffix(path):
                self.unreadable[path] = "a link to nothing"
            else:
                self.passed[_NO_IMAGE] += 1
        else:
            self.passed[_SPECIAL] += 1


def _head(path: Path) -> bytes:
    """The start of a file."""
    return read_start(path, MARKER_BYTES if path.name == MARKER else HEAD_BYTES)


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of a plain file, or of one that a link leads to; none of anything else.

    A pipe or a device would block or never end, and so would some files of the system's own, which
    have no length (`/proc/kmsg`).

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(min(size, os.fstat(file.fileno()).st_size))

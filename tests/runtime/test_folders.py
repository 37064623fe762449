"""Which files of a folder are images: suffixes and contents, links, what is passed over."""

from __future__ import annotations

import errno
import json
import logging
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge_runtime import ImageError
from nin_edge_runtime.folders import (
    LOCK,
    MARKER,
    image_format,
    list_folder,
    list_names,
    read_start,
)
from nin_edge_runtime.image import find_images, load_image


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes files to a folder: {name: content}; folders where a name ends in a slash."""

    def write(files: dict[str, bytes]) -> Path:
        top = tmp_path / "photos"
        top.mkdir(exist_ok=True)
        for name, content in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                (top / name).mkdir()
            else:
                (top / name).write_bytes(content)
        return top

    return write


def empty(*names: str) -> dict[str, bytes]:
    return dict.fromkeys(names, b"")


# --- content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("name", ["img_1", "a.jpg?w=800", "a.JPG_large", "b.1", "ü.x"])
def test_files_with_no_or_an_odd_suffix_are_images_by_content(
    make: Callable[..., Path],
    encode: Callable[..., bytes],
    scene: np.ndarray,
    file_format: str,
    name: str,
) -> None:
    others = {"notes": b"BMW and other cars", "x.csv": encode(scene, file_format)}
    top = make({name: encode(scene, file_format), **others})
    listing = list_folder(top)
    # Cameras' raw files start like TIFF: it counts without a suffix, or with one of its own.
    as_tiff = file_format == "TIFF" and name != "img_1"
    assert listing.images == (frozenset() if as_tiff else {name})
    count = 2 + as_tiff
    assert listing.passed_over() == f"{count} files without an image's suffix or content"
    assert set(listing.names) == {name, "notes", "x.csv"}  # all, for the official data sets


@pytest.mark.parametrize("brand", ["heic", "heix", "mif1", "hevc"])
def test_heic_is_known_by_its_brand(make: Callable[..., Path], brand: str) -> None:
    head = b"\0\0\0\x18ftyp" + brand.encode() + b"\0\0\0\0mif1" + brand.encode()
    assert image_format(head) == "HEIC"
    assert list_folder(make({"IMG_1.HIF": head + bytes(8)})).images == {"IMG_1.HIF"}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"BM", b"BMW is no bitmap, but a car", b"RIFF\0\0\0\0WAVEfmt ", b"%PDF-1.7"),
        *(b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", b"\0\0\0\x18ftypcrx \0\0\0\0crx isom"),
    ],
)
def test_other_contents_are_no_images(content: bytes) -> None:
    assert image_format(content) is None


@pytest.mark.parametrize("name", ["a.jpg~", "a.jpg_original", "a.jpg.bak", "a.JPG.part"])
def test_backups_and_unfinished_files_are_no_images(
    make: Callable[..., Path], encode: Callable[..., bytes], scene: np.ndarray, name: str
) -> None:
    assert list_folder(make({name: encode(scene), "a.jpg": b""})).images == {"a.jpg"}


# --- what is passed over --------------------------------------------------------------------------


def test_system_folders_and_hidden_files_are_passed_over_and_counted(
    make: Callable[..., Path],
) -> None:
    names = ("a/0.png", "@eaDir/0.png", "a/@eaDir/x/0.png", "__MACOSX/a/0.png", "Lost+Found/0.png")
    hidden = (".ipynb_checkpoints/0.png", "a/.0.png", "a/._0.png", "$RECYCLE.BIN/0.png")
    listing = list_folder(make(empty(*names, *hidden)))
    assert (listing.images, listing.names) == ({"a/0.png"}, ("a/", "a/0.png"))
    for words in ("1 hidden folder", "2 hidden files", "2 system folders (@eaDir)"):
        assert words in listing.passed_over()
    assert listing.unreadable == ()


def test_folders_with_files_and_no_image_are_counted_and_named(make: Callable[..., Path]) -> None:
    ours = ("models/photos.fp32.onnx", "models/photos.report.html")
    others = ("notes/a.txt", "notes/old/b.txt", "a/labels/0.json", "clips/2024/0.mp4")
    top = make(empty("a/0.png", "b/0.png", "b/x/1.png", "empty/inner/", *ours, *others))
    listing = list_folder(top)
    assert listing.without_images == {
        *("models/", "notes/", "notes/old/", "a/labels/", "clips/", "clips/2024/")
    }
    assert "4 folders without images (a/labels, clips, models, notes)" in listing.passed_over()
    assert (
        list_folder(top / "notes").passed_over() == "2 files without an image's suffix or content"
    )
    for number in range(9):
        make(empty(f"{number}/x.txt"))
    assert "13 folders without images (0, 1, 2, 3, 4, ...)" in list_folder(top).passed_over()


@pytest.mark.parametrize("marker", [b"anything", b"", b'{"a": 1}'])
def test_a_folder_that_nin_edge_wrote_is_passed_over(
    make: Callable[..., Path], marker: bytes
) -> None:
    run = empty("runs/photos/curves.png", "runs/photos/tensorboard/x.png", "a/0.png", "b/")
    top = make(run | {f"runs/photos/{MARKER}": marker})
    listing = list_folder(top)
    assert listing.names == ("a/", "a/0.png", "b/")  # runs is no class; an empty b may be one
    assert listing.passed_over() == "1 folder that nin-edge wrote"
    with_image = list_folder(make(empty("runs/photo.png")))
    assert with_image.images == {"a/0.png", "runs/photo.png"}
    assert list_folder(top / "runs" / "photos").images == {"curves.png", "tensorboard/x.png"}


def test_a_folder_that_a_training_has_just_reserved_is_no_class(make: Callable[..., Path]) -> None:
    top = make(empty("a/0.png", f"runs/photos/{LOCK}"))
    assert list_folder(top).names == ("a/", "a/0.png")
    (top / "runs" / "photos" / MARKER).write_text("[]")
    assert list_folder(top).names == ("a/", "a/0.png")


@pytest.mark.parametrize(
    "files",
    [
        {f"{MARKER}": b'["a.png"]'},  # heatmaps that were deleted, or never drawn
        {f"{MARKER}-0123.lock": b""},  # an export that is on its way
    ],
    ids=["no picture", "a lock"],
)
def test_a_folder_with_nothing_but_our_marks_is_no_class(files: dict[str, bytes]) -> None:
    contents = {"a/1.png": b"", **{f"out/{name}": content for name, content in files.items()}}
    listing = list_names({"a/", "out/", *contents}, contents.__getitem__)
    assert listing.images == {"a/1.png"}
    assert "out/" not in listing.names


def test_files_that_nin_edge_wrote_are_passed_over(make: Callable[..., Path]) -> None:
    top = make(empty("a.png", "a.png.png", "seen/a.png", "seen/b.png", "maps/a.png"))
    (top / MARKER).write_text(json.dumps(["a.png.png"]))
    (top / "seen" / MARKER).write_text(json.dumps(["a.png"]))
    (top / "maps" / MARKER).write_text(json.dumps(["a.png"]))
    listing = list_folder(top)
    assert listing.names == ("a.png", "seen/", "seen/b.png")
    assert listing.passed_over() == "3 files that nin-edge wrote"


@pytest.mark.parametrize("marker", ["sparse", "[" * 100_000, "[1e999, {}]", "\x1b[2J", "\udcff"])
def test_a_marker_that_is_no_list_stands_for_its_folder(
    make: Callable[..., Path], marker: str
) -> None:
    top = make(empty("a/0.png", "seen/0.png"))
    path = top / "seen" / MARKER
    path.write_bytes(marker.encode("utf-8", "surrogateescape"))
    if marker == "sparse":
        os.truncate(path, 3 << 30)
    tracemalloc.start()
    listing = list_folder(top)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert listing.images == ({"a/0.png"} if marker != "[1e999, {}]" else {"a/0.png", "seen/0.png"})
    assert peak < 100_000_000


@pytest.mark.skipif(not os.access("/proc/self/mem", os.R_OK), reason="there is no /proc")
@pytest.mark.parametrize("target", ["/proc/kmsg", "/proc/self/mem", "/dev/zero", "/dev/tty"])
def test_a_link_to_a_file_without_an_end_is_not_read(
    make: Callable[..., Path], target: str
) -> None:
    top = make(empty("a/0.png"))
    (top / "a" / "1.png").symlink_to(target)
    (top / "a" / "noname").symlink_to(target)
    listing = list_folder(top)
    assert "a/noname" not in listing.images
    assert read_start(top / "a" / "1.png", 99) == b""
    with pytest.raises(ImageError):
        load_image(top / "a" / "1.png")


def test_archives_have_the_same_rules(make: Callable[..., Path]) -> None:
    files = empty("./a/0.png", "./__MACOSX/a/0.png", "./runs/x/0.png", "./a/.0.png") | {
        "./a/img": b"\xff\xd8\xff",
        f"./runs/x/{MARKER}": b"all",
        "./a/1.png": b"",
        f"./a/{MARKER}": b'["1.png"]',
    }
    listing = list_names([*files, "./", "./runs/"], files.__getitem__)
    assert listing.images == {"./a/0.png", "./a/img"}
    assert listing.names == ("./", "./a/0.png", "./a/img")


# --- links and what cannot be read ----------------------------------------------------------------


def test_links_are_followed_once_and_loops_end(make: Callable[..., Path], tmp_path: Path) -> None:
    top = make(empty("b/0.png", "c/1.png"))
    outside = tmp_path / "outside" / "deep"
    outside.mkdir(parents=True)
    (outside / "2.png").touch()
    links = {
        "a": top / "b",  # the folder counts under its own name, whatever comes first
        "b/again": top,
        "b/up": tmp_path,
        "c/in": outside.parent,
        "d": outside,
        "c/3.png": top / "b" / "0.png",
    }
    for name, target in links.items():
        (top / name).symlink_to(target)
    listing = list_folder(top)
    assert listing.images == {"b/0.png", "c/1.png", "c/3.png", "d/2.png"}
    assert listing.names == (
        "b/",
        "b/0.png",
        "c/",
        "c/1.png",
        "c/3.png",
        "c/in/",
        *("d/", "d/2.png"),
    )
    assert listing.passed_over() == "4 links to a folder above or read before"
    assert listing.unreadable == ()


def test_dangling_and_looping_links_are_unreadable(make: Callable[..., Path]) -> None:
    top = make(empty("a/0.png"))
    for name, target in {"1.jpg": "nowhere", "a/b": "../none", "README.md": "nowhere"}.items():
        (top / name).symlink_to(target)
    (top / "self.png").symlink_to("self.png")
    os.mkfifo(top / "a" / "pipe.png")
    listing = list_folder(top)
    assert listing.images == {"a/0.png"}
    assert [name for name, _ in listing.unreadable] == ["1.jpg", "a/b", "self.png"]
    assert listing.unreadable[0][1] == "a link to nothing"
    assert "1 pipe, socket or device" in listing.passed_over()


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes the permission to read a file or folder, from the superuser too."""
    denied: set[str] = set()
    scandir, access = os.scandir, os.access

    def guarded_scandir(path: Any) -> Any:
        if os.fspath(path) in denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    def guarded_open(path: Path, mode: str) -> Any:
        if str(path) in denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return path_open(path, mode)

    path_open = Path.open
    monkeypatch.setattr(Path, "open", guarded_open)
    monkeypatch.setattr(os, "scandir", guarded_scandir)
    monkeypatch.setattr(
        os, "access", lambda path, mode: os.fspath(path) not in denied and access(path, mode)
    )
    return lambda path: denied.add(os.fspath(path))


def test_unreadable_folders_and_files_are_named(
    make: Callable[..., Path],
    locked: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    top = make(empty("a/0.png", "a/1.png", "a/img_2", "b/0.png", "c/notes.txt"))
    for name in ("a/1.png", "a/img_2", "b", "c/notes.txt"):
        locked(top / name)
    listing = list_folder(top)
    assert listing.images == {"a/0.png"}
    reason = os.strerror(errno.EACCES)
    assert listing.unreadable == (
        ("a/1.png", "no permission to read it"),
        *(("a/img_2", reason), ("b/", reason)),
    )
    passed = "1 file without an image's suffix or content, 1 folder without images (c)"
    assert listing.passed_over() == passed
    with caplog.at_level(logging.WARNING):
        assert find_images([top]) == [top / "a" / "0.png"]
    assert f"{top / 'b'}: {reason}" in caplog.text
    locked(top)
    with pytest.raises(ImageError, match=rf"{top}: {reason}"):
        find_images([top])

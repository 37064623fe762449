from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from nin_edge.files import require_folder, write_atomically
from nin_edge_runtime import NinEdgeError


@pytest.fixture(params=["fsync", "replace"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while a file is flushed, or when it is put in place."""

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, request.param, fail)


@pytest.mark.parametrize("data", [b"", b"new", bytes(1 << 20)], ids=len)
def test_replaces_the_content(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"the old content, longer than some of the new")
    write_atomically(path, data)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_readers_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("old", [None, b"old"], ids=["new file", "old file"])
def test_a_failed_write_changes_nothing_and_names_the_file(
    tmp_path: Path, old: bytes | None
) -> None:
    path = tmp_path / "model.safetensors"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if old is None else [old])


@pytest.mark.parametrize("place", ["file", "folder"])
@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_cannot_flush_gets_the_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, reason: int
) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) is (place == "folder"):
            raise OSError(reason, os.strerror(reason))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("missing", ["modes", "open folders"])
def test_exfat_cifs_and_windows_get_the_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    opened = os.open

    def refuse(path: object, *arguments: object, **_: object) -> int:
        if missing == "open folders" and path != tmp_path:
            return opened(path, *arguments)  # type: ignore[arg-type]
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if missing == "modes":
        monkeypatch.setattr(Path, "chmod", refuse)
    else:
        monkeypatch.setattr(os, "open", refuse)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["n" * 255, "猫" * 85])
def test_the_longest_names_are_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"new")
    assert (tmp_path / name).read_bytes() == b"new"


@pytest.mark.parametrize("name", ["missing/file", "folder"])
def test_an_impossible_place_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"No such|Is a directory") as caught:
        write_atomically(tmp_path / name, b"new")
    assert caught.value.filename == str(tmp_path / name)  # not a temporary one
    assert [entry.name for entry in tmp_path.rglob("*")] == ["folder"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    require_folder(tmp_path / "new" / "run")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NinEdgeError, match="file: a file, expected a folder to write to"):
            require_folder(path)
    (tmp_path / "link").symlink_to("/no/disk")
    for path in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(NinEdgeError, match=r"link: a link to /no/disk, which is missing; exp"):
            require_folder(path)

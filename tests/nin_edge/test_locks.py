"""Locks between processes: one holder at a time, whatever its end, on any system."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nin_edge.locks import LOCK_NAME, open_plain, reserved, try_lock
from nin_edge_runtime import NinEdgeError

HOLD = """
import sys
from pathlib import Path
from nin_edge.locks import reserved
with reserved(Path(sys.argv[1]), sys.argv[2], "in use"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_holder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with reserved(folder, LOCK_NAME, "in use"):
        assert [file.name for file in folder.iterdir()] == [LOCK_NAME]
        with pytest.raises(NinEdgeError, match="in use"), reserved(folder, LOCK_NAME, "in use"):
            pass
        with reserved(folder, "another.lock", "in use"):
            pass
        (folder / "result").touch()
    assert [file.name for file in folder.iterdir()] == ["result"]
    with reserved(folder, LOCK_NAME, "in use"):
        pass


def test_folders_that_stay_empty_are_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with (
        pytest.raises(ValueError, match="wrong"),
        reserved(tmp_path / "kept" / "a" / "b", LOCK_NAME, "in use"),
    ):
        raise ValueError("wrong")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_a_folder_that_cannot_be_made_is_an_error_and_no_endless_wait(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    for folder in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(FileExistsError), reserved(folder, LOCK_NAME, "in use"):
            pass


def test_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), LOCK_NAME],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(NinEdgeError, match="in use"), reserved(tmp_path, LOCK_NAME, "in use"):
        pass
    child.kill()
    child.communicate()
    assert (tmp_path / LOCK_NAME).exists()
    with reserved(tmp_path, LOCK_NAME, "in use"):
        pass
    assert not list(tmp_path.iterdir())


def test_there_is_never_more_than_one_holder(tmp_path: Path) -> None:
    holders: list[int] = []
    most: list[int] = []

    def hold() -> None:
        for _ in range(50):
            try:
                with reserved(tmp_path / "run", LOCK_NAME, "in use"):
                    holders.append(1)
                    most.append(len(holders))
                    holders.pop()
            except NinEdgeError:
                continue

    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_disk_without_locks_gets_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("fcntl.flock", fail)
    with reserved(tmp_path, LOCK_NAME, "in use"):
        assert (tmp_path / LOCK_NAME).exists()


def test_windows_locks_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: set[Any] = set()

    def locking(descriptor: int, mode: int, count: int) -> None:
        place = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR), count)
        if place in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        locked.add(place)

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(sys, "platform", "win32")
    with (tmp_path / "file").open("ab") as one, (tmp_path / "file").open("ab") as other:
        assert try_lock(one)
        assert not try_lock(other)
    locked.clear()
    with reserved(tmp_path / "run", LOCK_NAME, "in use"):
        assert (tmp_path / "run" / LOCK_NAME).exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("form", ["link", "dangling link", "hard link", "pipe"])
def test_what_is_no_plain_file_is_not_locked(tmp_path: Path, form: str) -> None:
    mine, path = tmp_path / "mine.txt", tmp_path / LOCK_NAME
    if form != "dangling link":
        mine.write_bytes(b"mine")
    if form == "pipe":
        os.mkfifo(path)
    elif form == "hard link":
        path.hardlink_to(mine)
    else:
        path.symlink_to(mine)
    refusal = pytest.raises(NinEdgeError, match="a link, a pipe or a device, expected a plain file")
    with refusal, open_plain(path):
        pass
    with refusal, reserved(tmp_path, LOCK_NAME, "in use"):
        pass
    assert mine.exists() == (form != "dangling link")
    assert not mine.exists() or mine.read_bytes() == b"mine"

"""The cache: it serves what was decoded, and nothing that is stale, torn or altered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge.data import Dataset, open_dataset
from nin_edge.data.cache import Index, _checksum, cache_key
from nin_edge.data.sources import open_source
from nin_edge_runtime import NinEdgeError


def read(path: Path, **options: Any) -> Dataset:
    return open_dataset(path, **{"size": 16, "workers": 1, **options})


def caches(cache: Path) -> list[Path]:
    """Everything in the folder of the caches but the locks."""
    return [entry for entry in cache.iterdir() if entry.name != "locks"]


class Counted:
    """A progress callback that remembers its calls: none when the cache served."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


def test_the_second_call_decodes_nothing(pair: Path) -> None:
    first, second = Counted(), Counted()
    one, two = read(pair, progress=first), read(pair, progress=second)
    assert first.calls == [(20, 20)]
    assert second.calls == []
    for name in ("images", "targets", "train", "holdout", "test"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    for name in ("labels", "names", "fingerprint", "unreadable", "name", "official"):
        assert getattr(one, name) == getattr(two, name)


@pytest.mark.parametrize("options", [{"size": 17}, {"channels": 1}])
def test_each_size_and_number_of_channels_has_its_cache(
    pair: Path, options: dict[str, int]
) -> None:
    read(pair)
    progress = Counted()
    read(pair, progress=progress, **options)
    assert progress.calls
    progress.calls.clear()
    read(pair, progress=progress)
    assert not progress.calls


@pytest.mark.parametrize("change", ["content", "time", "name", "added", "removed"])
def test_a_changed_folder_is_decoded_again(pair: Path, encoded: bytes, change: str) -> None:
    before, file = read(pair), pair / "square" / "003.png"
    stat = file.stat()
    if change == "content":
        file.write_bytes(encoded)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "time":
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "name":
        file.rename(file.with_name("new.png"))
    elif change == "added":
        (pair / "square" / "more.png").write_bytes(encoded)
    else:
        file.unlink()
    progress = Counted()
    after = read(pair, progress=progress)
    assert progress.calls
    assert (after.fingerprint == before.fingerprint) == (change == "time")


def alter_index(**changes: object) -> Callable[[Path], None]:
    """A change of entries of the cache's index; None removes one."""

    def change(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text()) | changes
        kept = {key: value for key, value in index.items() if value is not None}
        (folder / "index.json").write_text(json.dumps(kept))

    return change


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "images.u8").read_bytes())
    data[1000] ^= 1
    (folder / "images.u8").write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda folder: os.truncate(folder / "images.u8", 1000),
        lambda folder: os.truncate(folder / "images.u8", 0),
        lambda folder: (folder / "images.u8").unlink(),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_bytes(b"\xff garbage"),
        lambda folder: (folder / "index.json").write_text("[]"),
        lambda folder: os.truncate(folder / "index.json", 50),
        alter_index(targets=[0] * 20),
        alter_index(labels=["cat", "dog"]),
        alter_index(fingerprint="0" * 64),
        alter_index(shape=[20, 16, 48, 1]),
        alter_index(unreadable=None),
        alter_index(unreadable=5),
        alter_index(checksum=None),
    ],
    ids=[
        "altered images",
        "truncated images",
        "empty images",
        "no images",
        "no index",
        "garbage index",
        "list as index",
        "truncated index",
        "altered targets",
        "altered labels",
        "altered fingerprint",
        "altered shape",
        "index without unreadable",
        "index with strange unreadable",
        "index without checksum",
    ],
)
def test_a_damaged_cache_is_rebuilt(
    pair: Path, private_cache: Path, damage: Callable[[Path], None]
) -> None:
    before = read(pair, cache=private_cache)
    images = before.images.copy()
    (folder,) = caches(private_cache)
    damage(folder)
    progress = Counted()
    after = read(pair, cache=private_cache, progress=progress)
    assert progress.calls
    np.testing.assert_array_equal(after.images, images)
    assert (after.fingerprint, after.labels) == (before.fingerprint, before.labels)
    assert caches(private_cache) == [folder]


def forge_index(**changes: object) -> Callable[[Path], None]:
    """A change of entries of the index, with a checksum that fits."""

    def change(folder: Path) -> None:
        values = json.loads((folder / "index.json").read_text()) | changes
        del values["checksum"]
        (folder / "index.json").write_text(json.dumps(values | {"checksum": _checksum(values)}))

    return change


def replace_by_link(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    "attack",
    [
        forge_index(targets=[2] * 20),
        forge_index(targets=[-1] * 20),
        forge_index(targets=["a"] * 20),
        forge_index(targets=[0] * 19),
        forge_index(splits=[None] * 20),
        forge_index(labels=[1, 2]),
        forge_index(shape=[20, -16, -16, 3]),
        forge_index(shape=[20, 16, 48]),
        forge_index(names=5),
        lambda folder: (folder / "index.json").write_text("[" * 100_000),
        lambda folder: folder.chmod(0o777),
        lambda folder: (folder / "images.u8").chmod(0o666),
        replace_by_link,
    ],
    ids=[
        *("a class too many", "a negative class", "a text as class", "too few classes"),
        *("no splits", "numbers as labels", "negative sides", "three sides", "a number as names"),
        *("deep JSON", "writable by others", "pixels writable by others", "a link"),
    ],
)
def test_a_cache_that_others_could_have_made_is_not_taken(
    pair: Path, private_cache: Path, attack: Callable[[Path], None]
) -> None:
    before = read(pair, cache=private_cache)
    fingerprint, targets = before.fingerprint, before.targets.tolist()
    (folder,) = caches(private_cache)
    attack(folder)
    progress = Counted()
    after = read(pair, cache=private_cache, progress=progress)
    assert progress.calls
    assert (after.fingerprint, after.targets.tolist()) == (fingerprint, targets)


def test_a_cache_of_another_user_is_not_taken(
    pair: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(pair, cache=private_cache)
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    progress = Counted()
    read(pair, cache=private_cache, progress=progress)  # taken, though it seems another user's now
    assert progress.calls


def test_a_cache_in_a_folder_that_others_can_write_to_is_not_taken(
    pair: Path, private_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read(pair, cache=private_cache)
    for mode, taken in ((0o777, False), (0o1777, True), (0o755, True)):
        private_cache.chmod(mode)
        progress = Counted()
        read(pair, cache=private_cache, progress=progress)
        assert bool(progress.calls) != taken
        assert ("other users can write to it" in caplog.text) != taken
        caplog.clear()


@pytest.mark.parametrize("form", ["pipe", "link"])
def test_a_lock_of_a_cache_is_a_plain_file(pair: Path, private_cache: Path, form: str) -> None:
    read(pair, cache=private_cache)
    (folder,) = caches(private_cache)
    lock = private_cache / "locks" / folder.name
    lock.unlink()
    os.mkfifo(lock) if form == "pipe" else lock.symlink_to(private_cache / "elsewhere")
    (folder / "index.json").unlink()
    with pytest.raises(NinEdgeError, match="expected a plain file; remove it"):
        read(pair, cache=private_cache)
    assert not (private_cache / "elsewhere").exists()


def test_a_package_that_reads_more_images_makes_the_cache_anew(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(pair)
    keys = [cache_key(source, "", 16, 3)]
    for version in ("1.0", "1.1"):
        installed = tmp_path / version / f"pillow_heif-{version}.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text(f"Name: pillow-heif\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path / version)
        keys.append(cache_key(source, "", 16, 3))
    assert len(set(keys)) == 3


def test_an_index_survives_its_json() -> None:
    index = Index(
        labels=("a", "é"),
        names=("a/0.png", "é/\udcff.png"),  # not UTF-8 on the disk
        splits=("", ""),
        targets=(0, 1),
        unreadable=(("x.png", "why"),),
        shape=(2, 16, 16, 3),
        duplicates=(("a/0.png", "é/\udcff.png"),),
        contradictions=(("a/0.png", "é/\udcff.png"),),
        fingerprint="0" * 64,
    )
    assert Index.from_json(index.to_json()) == index


def test_the_cache_lies_where_the_environment_says(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    read(pair)
    assert list((tmp_path / "xdg" / "nin-edge").iterdir())


FIRST_OPEN = """
import sys
from pathlib import Path
from nin_edge.data import open_dataset

print("ready", flush=True)
sys.stdin.readline()
def progress(done, total):
    print("decoded", flush=True)
print(open_dataset(Path(sys.argv[1]), size=32, workers=1, progress=progress).fingerprint)
"""


def test_of_processes_that_open_at_once_one_decodes(pair: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_OPEN, str(pair)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in started]
    assert [errors for _, errors in outputs] == [""] * 3
    lines = [line for output, _ in outputs for line in output.splitlines()]
    assert lines.count("decoded") == 1
    assert len(set(lines) - {"decoded"}) == 1


def test_what_a_killed_process_left_is_removed(pair: Path, private_cache: Path) -> None:
    abandoned, recent = private_cache / ".building-old", private_cache / ".building-new"
    for folder in (abandoned, recent):
        folder.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    read(pair)
    assert (abandoned.exists(), recent.exists()) == (False, True)

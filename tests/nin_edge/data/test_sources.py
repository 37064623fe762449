"""What a data set reads of a folder or archive: odd names, links, what nin-edge wrote there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nin_edge.data import Dataset, DatasetError, open_dataset, sources
from nin_edge.data.sources import Folder
from nin_edge.files import mark_beside, mark_written
from nin_edge_runtime.folders import MARKER, list_folder


def read(path: Path, *, skip_unreadable: bool = True) -> Dataset:
    return open_dataset(path, size=16, workers=1, skip_unreadable=skip_unreadable)


@pytest.mark.parametrize("name", ["data", "data.tar", "data.tar.gz", "data.zip"])
def test_images_are_found_by_content_and_what_is_none_is_counted(
    pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], encoded: bytes, name: str
) -> None:
    plain = read(pair)
    (pair / "circle" / "img_1").write_bytes(encoded)
    (pair / "square" / "x.jpg?w=800").write_bytes(encoded)
    for other in ("notes.txt", "circle/list.csv", "README"):
        (pair / other).write_text("no image")
    for system in ("@eaDir", "square/__MACOSX"):
        (pair / system).mkdir()
        (pair / system / "0.png").write_bytes(encoded)
    dataset = read(pair if name == "data" else pack(pair, tmp_path / name))
    assert set(dataset.names) == {*plain.names, "circle/img_1", "square/x.jpg?w=800"}
    assert "3 files without an image's suffix or content" in dataset.passed_over
    assert "1 system folder (@eaDir)" in dataset.passed_over
    assert (dataset.labels, dataset.unreadable) == (plain.labels, ())


@pytest.mark.parametrize("name", ["data", "data.tar", "data.zip"])
def test_what_nin_edge_wrote_among_the_photos_changes_nothing(
    pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], encoded: bytes, name: str
) -> None:
    before = read(pair)
    for run in ("runs/pair", "circle/runs/circle"):
        (pair / run).mkdir(parents=True)
        (pair / run / "curves.png").write_bytes(encoded)
        mark_written(pair / run)
    (pair / "seen").mkdir()
    for picture in ("seen/000.png.png", "plot.png", "square/heat.png"):
        (pair / picture).write_bytes(encoded)
        mark_beside(pair, pair / picture)
    dataset = read(pair if name == "data" else pack(pair, tmp_path / name))
    assert (dataset.fingerprint, dataset.unreadable) == (before.fingerprint, ())
    assert dataset.passed_over == "3 files that nin-edge wrote, 2 folders that nin-edge wrote"


def test_marks_add_up_and_the_whole_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    folder = tmp_path / "sub"
    for picture in ("a.png", "b\udcff.png", "\n.png", "mine.png"):
        (folder / picture).touch()
    mark_written(folder, ["a.png"])
    mark_written(folder, ["b\udcff.png", "\n.png"])
    assert list_folder(tmp_path).images == {"sub/mine.png"}
    mark_beside(tmp_path / "elsewhere", folder / "mine.png")
    assert list_folder(tmp_path).images == {"sub/mine.png"}
    mark_written(folder)
    mark_written(folder, ["c.png"])
    assert list_folder(tmp_path).names == ()
    assert (folder / MARKER).read_text().startswith("nin-edge wrote this folder")


def test_linked_folders_are_read_once(pair: Path, tmp_path: Path) -> None:
    before = read(pair)
    (pair / "square").rename(tmp_path / "elsewhere")
    (pair / "square").symlink_to(tmp_path / "elsewhere")
    (pair / "circle" / "loop").symlink_to(pair)
    (pair / "a copy").symlink_to(pair / "circle")
    dataset = read(pair)
    assert (dataset.fingerprint, dataset.names) == (before.fingerprint, before.names)
    assert "2 links to a folder above or read before" in dataset.passed_over


def test_reasons_have_no_name(pair: Path) -> None:
    for name in ("damaged.png", "\u202f.png", "\n.png"):
        (pair / "circle" / name).write_text("no image")
        ((unreadable, reason),) = read(pair).unreadable
        assert unreadable == f"circle/{name}"
        assert reason.startswith("not an image")
        (pair / "circle" / name).unlink()


def test_what_is_too_large_is_named_and_what_a_disk_refuses_is_no_fault_of_an_image(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair / "circle" / "large.png").write_bytes(bytes(20_001))
    monkeypatch.setattr(sources, "MAX_MEMBER", 20_000)
    assert read(pair).unreadable == (("circle/large.png", "more than 20,000 bytes"),)
    with pytest.raises(DatasetError, match=r"xxx: cannot be read \(File name too long\)"):
        list(Folder(pair).read({"x" * 300}))


def test_what_cannot_be_read_stops_unless_it_may_be_skipped(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair / "circle" / "gone.png").symlink_to("nowhere")
    (pair / "circle" / "loop.png").symlink_to("loop.png")
    denied = str(pair / "square" / "000.png")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != denied and access(path, mode))
    for _ in range(2):  # decoded, then from the cache
        with pytest.raises(DatasetError, match=r"circle/gone\.png \(a link to nothing\)") as caught:
            read(pair, skip_unreadable=False)
        for words in ("circle/loop.png", "square/000.png (no permission", "skip_unreadable=true"):
            assert words in str(caught.value)
        dataset = read(pair)
        assert len(dataset.unreadable) == 3
        assert "square/000.png" not in dataset.names
    monkeypatch.setattr(os, "access", access)  # which changes no size and no time
    assert "square/000.png" in read(pair).names
    (pair / "circle" / "damaged.png").write_text("no image")
    for name in ("gone.png", "loop.png"):
        (pair / "circle" / name).unlink()
    dataset = read(pair, skip_unreadable=False)  # a damaged image is no reason to stop
    assert [name for name, _ in dataset.unreadable] == ["circle/damaged.png"]

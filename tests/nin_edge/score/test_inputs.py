"""What is scored: folders, Parquet files, tars; damaged ones, odd names, and what is no input."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nin_edge.score import Summary
from nin_edge_runtime import NinEdgeError

Writer = Callable[..., Path]
Reader = Callable[[Path], list[dict[str, Any]]]


def test_damaged_parquet_files_are_rows_with_an_error(
    write_parquet: Writer,
    run: Callable[..., Summary],
    read_rows: Reader,
    images: Sequence[Path],
    tmp_path: Path,
) -> None:
    source = tmp_path / "in"
    good = write_parquet(source / "b.parquet", row_group_size=4).read_bytes()
    (source / "a-torn.parquet").write_bytes(good[: len(good) // 2])
    (source / "d-empty.parquet").write_bytes(b"")
    pq.write_table(pa.table({"text": list("abcdefg")}), source / "c-foreign.parquet")
    pq.write_table(pa.table({"text": ["a"]}), source / "a-foreign.parquet")  # decides nothing
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), source / "e-none.parquet")
    pq.write_table(pa.table({"image": pa.array([None], pa.binary())}), source / "f-null.parquet")
    footer = pq.ParquetFile(source / "b.parquet").metadata
    place = footer.row_group(2).column(1).data_page_offset
    altered = bytearray(good)
    altered[place : place + 40] = bytes(255 for _ in range(40))
    (source / "g-altered.parquet").write_bytes(altered)

    summary = run(source)
    rows = {row["path"]: row for row in read_rows(tmp_path / "out")}
    bad = {path: row["error"] for path, row in rows.items() if row["error"]}
    middle = len(images) // 2
    assert bad["a-torn.parquet"].startswith("not a readable Parquet file (")
    assert bad["d-empty.parquet"].startswith("not a readable Parquet file (")
    assert bad["c-foreign.parquet"] == "no column 'image' of bytes; the columns are text"
    assert bad["f-null.parquet#0"] == "null, expected an image's bytes"
    assert "rows 8 to 9: damaged in the Parquet file" in bad["g-altered.parquet#8"]
    assert f"b.parquet#{middle}" in bad
    # Two shards meet in the damaged row group, and nothing but its four rows is lost.
    altered_rows = [path for path in rows if path.startswith("g-")]
    assert len(altered_rows) == len(images) - 4 + 2
    assert summary == Summary(len(rows), len(bad), 16, 16)
    assert all("\n" not in error for error in bad.values())


def test_a_column_is_found_or_named(
    folder: Path,
    images: Sequence[Path],
    write_tar: Writer,
    run: Callable[..., Summary],
    tmp_path: Path,
) -> None:
    file = tmp_path / "two.parquet"
    data = [images[0].read_bytes()]
    pq.write_table(pa.table({"left": data, "right": data, "name": ["a"]}), file)
    with pytest.raises(NinEdgeError, match="found left, right of left, right, name; --column"):
        run(file)
    with pytest.raises(NinEdgeError, match=r"two.parquet: no column 'name' of bytes; the columns"):
        run(file, column="name")
    assert not (tmp_path / "out").exists()
    assert run(file, column="right").images == 1
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "none.parquet")
    with pytest.raises(NinEdgeError, match="expected one column of images' bytes, found none"):
        run(tmp_path / "none.parquet", out=tmp_path / "other")
    for other in (folder, write_tar(tmp_path / "a.tar")):
        with pytest.raises(NinEdgeError, match="no column 'right', expected Parquet files"):
            run(other, column="right", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_damaged_tars_keep_what_comes_before(
    write_tar: Writer, run: Callable[..., Summary], read_rows: Reader, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    good = write_tar(source / "a.tar").read_bytes()
    (source / "b-cut.tar").write_bytes(good[: len(good) // 2])
    (source / "c-none.tar").write_bytes(b"no tar")
    with tarfile.open(source / "d-texts.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("._0.jpg"), io.BytesIO())  # macOS's
    link = tarfile.TarInfo("0.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(source / "e-link.tar", "w") as tar:
        tar.addfile(link)
    summary = run(source)
    assert (summary.files, summary.written) == (5, 5)
    rows = read_rows(tmp_path / "out")
    bad = {row["path"]: row["error"] for row in rows if row["error"]}
    assert bad["b-cut.tar"].startswith("a truncated or broken archive (")
    assert bad["c-none.tar"].startswith("a truncated or broken archive (")
    assert bad["d-texts.tar"] == "a tar without images, such as 0001.jpg"
    assert bad["e-link.tar"].startswith("member '0.jpg' is a link")
    before_the_cut = [row for row in rows if row["path"].startswith("b-cut.tar/")]
    assert len(before_the_cut) > 5
    assert before_the_cut[0]["label"] is not None


def test_what_is_no_input_is_refused_before_anything_is_written(
    run: Callable[..., Summary], write_parquet: Writer, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("a text that is long enough to be a header " * 20)
    write_parquet(tmp_path / "both" / "a.parquet")
    shutil.copy(folder / "inside" / "000.jpg", tmp_path / "both" / "0.jpg")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "empty": "empty: nothing to score in it, expected a folder of images, Parquet files",
        "missing": "missing: no such file or folder",
        "text": "text: expected a folder of images, Parquet files",
        "both": "both: has 1 Parquet files and 1 images, expected one kind",
        "torn.parquet": "torn.parquet: not a readable Parquet file",
        "pipe": "pipe: a pipe, socket or device",
    }
    for name, message in cases.items():
        with pytest.raises(NinEdgeError, match=message):
            run(tmp_path / name)
    with pytest.raises(NinEdgeError, match=r"missing.onnx: "):
        run(folder, model=tmp_path / "missing.onnx")
    assert not (tmp_path / "out").exists()


def test_names_of_any_bytes_and_files_that_cannot_be_read_are_rows(
    images: Sequence[Path], run: Callable[..., Summary], read_rows: Reader, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(images[0], os.fsencode(source) + b"/\xff\xe4.jpg")
    shutil.copy(images[0], source / "new\nline.jpg")
    (source / "nothing.jpg").symlink_to("missing.jpg")
    (source / "bad\u202fphoto.jpg").write_text("no image")  # as macOS names screenshots
    out = tmp_path / os.fsdecode(b"out \xff")
    summary = run(source, out=out)
    rows = {row["path"]: row["error"] for row in read_rows(out)}
    assert rows.pop("bad\u202fphoto.jpg").startswith("not an image")
    assert rows == {
        "\\xff\\xe4.jpg": None,
        "new\nline.jpg": None,
        "nothing.jpg": "a link to nothing",
    }
    assert (summary.images, summary.errors) == (4, 2)


@pytest.mark.parametrize("ending", [".parquet", ".tar"])
def test_files_that_are_not_there_and_folders_that_cannot_be_read_are_rows(
    ending: str,
    write_parquet: Writer,
    write_tar: Writer,
    run: Callable[..., Summary],
    read_rows: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path / "in"
    write = write_parquet if ending == ".parquet" else write_tar
    odd = os.fsdecode(os.fsencode(source) + b"/\xff" + ending.encode())
    write(source / f"a{ending}").rename(odd)
    (source / "locked").mkdir()
    (source / f"gone{ending}").symlink_to("missing")
    (source / ".cache").mkdir()  # hidden folders are no input
    (source / ".cache" / f"other{ending}").symlink_to("missing")
    scan = os.scandir

    def scandir(folder: Path) -> Any:
        if Path(folder).name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    run(source)
    rows = {row["path"]: row["error"] for row in read_rows(tmp_path / "out")}
    bad = {path: rows.pop(path) for path in ("locked/", f"gone{ending}")}
    assert list(bad.values()) == ["Permission denied", "a link to nothing"]
    assert not any(path.startswith(".cache") for path in rows)
    assert sum(error is None for error in rows.values()) > 5

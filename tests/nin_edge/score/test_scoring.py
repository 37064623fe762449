"""Scoring in this process: what the rows have, what a second run does, and every bad input."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nin_edge import files
from nin_edge.score import Summary, score
from nin_edge.score.job import SCHEMA, Job
from nin_edge.score.output import MANIFEST
from nin_edge_runtime import Classifier, ImageError, NinEdgeError

SAME = 1e-6
"""Largest difference of a probability: batches of other sizes may round differently."""

Writer = Callable[..., Path]
Reader = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture
def folder(images: Sequence[Path], tmp_path: Path) -> Path:
    shutil.copytree(images[0].parent, tmp_path / "in" / "inside")
    return tmp_path / "in"


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Callable[..., Summary]:
    """Scores an input to `out` with the tiny model."""

    def call(source: Path, **options: Any) -> Summary:
        settings = {"model": tiny_model, "rows": 5, "top_k": 2} | options
        return score(source, settings.pop("out", tmp_path / "out"), **settings)

    return call


def same(row: dict[str, Any], expected: Any, **fields: Any) -> None:
    """A row has the prediction, or the error, that the runtime gives for the image."""
    assert {name: row[name] for name in fields} == fields
    if isinstance(expected, ImageError):
        assert all(row[name] is None for name in row if name not in ("path", "error"))
        return
    assert row["error"] is None
    assert row["label"] == expected.label
    assert row["score"] == pytest.approx(expected.score, abs=SAME)
    top = expected.top(2)
    assert row["top_labels"] == [label for label, _ in top]
    assert row["top_scores"] == pytest.approx([score for _, score in top], abs=SAME)


def test_each_input_gives_what_the_runtime_predicts(
    folder: Path,
    images: Sequence[Path],
    write_parquet: Writer,
    write_tar: Writer,
    run: Callable[..., Summary],
    read_rows: Reader,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    expected = list(Classifier(tiny_model, threads=1).stream(images))
    inputs = {
        "folder": (folder, 5, "inside/{name}"),
        "row groups": (write_parquet(tmp_path / "a" / "a.parquet", row_group_size=4).parent, 5, ""),
        "one group": (write_parquet(tmp_path / "b.parquet"), 5, ""),
        "large": (write_parquet(tmp_path / "c.parquet", "large"), 5, ""),
        "struct": (write_parquet(tmp_path / "d.parquet", "hugging face", row_group_size=7), 5, ""),
        "tar": (write_tar(tmp_path / "t" / "0.tar").parent, 1, "0.tar/{name}"),
        "tgz": (write_tar(tmp_path / "t.tgz", "w:gz"), 1, "t.tgz/{name}"),
    }
    for name, (source, count, path) in inputs.items():
        out = tmp_path / f"out of {name}"
        summary = run(source, out=out)
        assert summary == Summary(len(images), 1, count, count), name
        rows = read_rows(out)
        file = next(source.glob("*")).name if source.is_dir() else source.name
        for index, (row, image, one) in enumerate(zip(rows, images, expected, strict=True)):
            same(row, one, path=path.format(name=image.name) if path else f"{file}#{index}")
        (error,) = (row["error"] for row in rows if row["error"])
        assert error.endswith("not an image in a format that Pillow reads")
        assert not error.startswith("/")
        # What reads a folder of Parquet files reads this one.
        assert pq.read_table(out).schema.remove_metadata() == SCHEMA


def test_labels_below_the_smallest_score_are_unknown(
    folder: Path, run: Callable[..., Summary], read_rows: Reader, tiny_model: Path, tmp_path: Path
) -> None:
    photo = folder / "inside" / "003.jpg"
    limit = Classifier(tiny_model)(photo).score + 1e-3
    run(folder, min_score=limit)
    rows = [row for row in read_rows(tmp_path / "out") if row["error"] is None]
    assert all(row["unknown"] == (row["score"] < limit) for row in rows)
    assert {row["unknown"] for row in rows} == {False, True}


def test_a_second_run_makes_what_is_missing_and_nothing_else(
    folder: Path, run: Callable[..., Summary], read_rows: Reader, tmp_path: Path
) -> None:
    out = folder / "scores"  # inside the input: it is never read as one
    done: list[tuple[int, int]] = []
    run(folder, out=out)
    before, times = read_rows(out), {path: path.stat().st_mtime_ns for path in out.iterdir()}
    lost = out / "part-000002.parquet"
    lost.unlink()
    (out / ".nin-edge-killed.part").write_bytes(b"half of a file")
    summary = run(folder, out=out, progress=lambda *state: done.append(state))
    assert (summary.files, summary.written, done) == (5, 1, [(5, 5)])
    assert read_rows(out) == before
    assert {path.name for path in out.iterdir()} == {path.name for path in times}
    assert [path.name for path in times if path.stat().st_mtime_ns != times[path]] == [lost.name]


def test_a_run_with_another_model_input_or_setting_is_refused(
    folder: Path, run: Callable[..., Summary], read_rows: Reader, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(folder)
    before = read_rows(out)
    grey = Path(__file__).parents[2] / "data" / "grey.fp32.onnx"
    with pytest.raises(NinEdgeError, match=r"was begun with another model \(sha256 "):
        run(folder, model=grey)
    for options in ({"top_k": 3}, {"min_score": 0.1}, {"rows": 6}):
        with pytest.raises(NinEdgeError, match="was begun with another settings"):
            run(folder, **options)
    shutil.copy(folder / "inside" / "000.jpg", folder / "more.jpg")
    with pytest.raises(NinEdgeError, match=r"another input .* files 23, .* files 24, "):
        run(folder)
    (folder / "more.jpg").unlink()
    (folder / "inside" / "001.jpg").touch()  # the same names and sizes, but written anew
    with pytest.raises(NinEdgeError, match="another input"):
        run(folder)
    assert read_rows(out) == before


def test_another_content_of_out_stays(
    folder: Path, run: Callable[..., Summary], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(NinEdgeError, match=r"has other content \(notes.txt\), expected a new"):
        run(folder)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    with pytest.raises(NinEdgeError, match=r"has other content \(inside\)"):
        run(folder, out=folder)
    with pytest.raises(NinEdgeError, match=r"notes.txt: a file, expected a folder"):
        run(folder, out=out / "notes.txt")
    for content, reason in ((b"{", "damaged"), (b"[]", "damaged"), (b"\xff", "damaged")):
        (out / MANIFEST).write_bytes(content)
        with pytest.raises(NinEdgeError, match=f"{MANIFEST}: {reason}"):
            run(folder)
    shutil.rmtree(out)
    run(folder)
    manifest = json.loads((out / MANIFEST).read_text("utf-8"))
    (out / MANIFEST).write_text(json.dumps(manifest | {"format": 2}), "utf-8")
    with pytest.raises(NinEdgeError, match="format 2, expected 1"):
        run(folder)
    (out / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    (out / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(NinEdgeError, match=r"part-000000.parquet: not a .*remove it and run again"):
        run(folder)


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
    pq.write_table(pa.table({"text": ["a", "b"]}), source / "c-foreign.parquet")
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
    assert summary == Summary(len(rows), len(bad), 15, 15)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "engine is 'spark': expected one of local, ray"),
        ({"rows": 0}, "rows is 0: expected a whole number, at least 1"),
        ({"top_k": 0.5}, "top_k is 0.5: expected a whole number"),
        ({"min_score": 2}, "min_score is 2: expected a probability"),
    ],
)
def test_arguments_out_of_their_range_are_refused(
    options: dict[str, Any],
    message: str,
    folder: Path,
    run: Callable[..., Summary],
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, **options)
    assert not (tmp_path / "out").exists()


def test_names_of_any_bytes_and_files_that_cannot_be_read_are_rows(
    images: Sequence[Path], run: Callable[..., Summary], read_rows: Reader, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(images[0], os.fsencode(source) + b"/\xff\xe4.jpg")
    shutil.copy(images[0], source / "new\nline.jpg")
    (source / "nothing.jpg").symlink_to("missing.jpg")
    summary = run(source)
    rows = {row["path"]: row["error"] for row in read_rows(tmp_path / "out")}
    assert rows == {
        "\\xff\\xe4.jpg": None,
        "new\nline.jpg": None,
        "nothing.jpg": "a link to nothing",
    }
    assert (summary.images, summary.errors) == (3, 1)


def test_a_full_disk_is_one_line_and_complete_files_stay(
    folder: Path,
    run: Callable[..., Summary],
    read_rows: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flush, calls = files._flush, 0

    def full(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:  # the manifest and two files
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_flush", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            run(folder)
    out = tmp_path / "out"
    assert caught.value.filename == str(out / "part-000002.parquet")
    names = {path.name for path in out.iterdir()}
    assert names == {MANIFEST, ".nin-edge", "part-000000.parquet", "part-000001.parquet"}
    assert run(folder).written == 3
    assert len(read_rows(out)) == 23


def test_an_interrupt_leaves_complete_files(
    folder: Path, run: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, done = Job.write, []

    def interrupted(job: Job, shard: Any, file: Path) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(file)
        write(job, shard, file)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    assert not (tmp_path / "out" / ".nin-edge.lock").exists()
    assert run(folder).written == 3

"""Scoring in this process: what the rows have, what a second run does, and every bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nin_edge import files
from nin_edge.score import Summary
from nin_edge.score.job import SCHEMA, Job
from nin_edge.score.output import MANIFEST
from nin_edge_runtime import Classifier, ImageError, NinEdgeError

SAME = 1e-6
"""Largest difference of a probability: batches of other sizes may round differently."""

Writer = Callable[..., Path]
Reader = Callable[[Path], list[dict[str, Any]]]


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
    os.mkfifo(out / MANIFEST)  # which would never be read to its end
    with pytest.raises(NinEdgeError, match=f"{MANIFEST}: damaged"):
        run(folder)
    (out / MANIFEST).unlink()
    for content, reason in ((b"{", "damaged"), (b"[]", "damaged"), (b"\xff", "damaged")):
        (out / MANIFEST).write_bytes(content)
        with pytest.raises(NinEdgeError, match=f"{MANIFEST}: {reason}"):
            run(folder)
    shutil.rmtree(out)
    out.mkdir()
    (out / ".nin-edge-0.part").touch()  # what a killed process left
    run(folder)
    assert not (out / ".nin-edge-0.part").exists()
    manifest = json.loads((out / MANIFEST).read_text("utf-8"))
    (out / MANIFEST).write_text(json.dumps(manifest | {"format": 2}), "utf-8")
    with pytest.raises(NinEdgeError, match="format 2, expected 1"):
        run(folder)
    (out / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    (out / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(NinEdgeError, match=r"part-000000.parquet: not a .*remove it and run again"):
        run(folder)


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

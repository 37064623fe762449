"""Scoring an input: what is missing of the output, and which engine computes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nin_edge.score.inputs import open_input
from nin_edge.score.job import Job
from nin_edge.score.output import Summary, open_output, shard_file, summarise
from nin_edge.score.shards import Shard
from nin_edge_runtime import DEFAULT_MODEL, read_model
from nin_edge_runtime.arguments import probability, whole_number
from nin_edge_runtime.threads import usable_threads

ENGINES: Final = ("local", "ray")
"""This process with threads, or Ray Data with processes."""

Work = list[tuple[Shard, Path]]
"""Shards that are to be scored, each with its file."""


def score(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    engine: str = "local",
    provider: str = "auto",
    column: str | None = None,
    top_k: int = 5,
    min_score: float | None = None,
    rows: int = 1000,
    on_input: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Write the predictions for all images of an input to a folder of Parquet files.

    Files that are there are not made again, so an interrupted run is continued by the same call.

    Args:
        source: a folder of images; a Parquet file or a tar, or a folder of such files.
        out: the output's folder: new, or from a call with the same model, input and settings.
        model: model file; the runtime's default model if None.
        engine: one of `ENGINES`; `ray` computes on the CPU.
        provider: `auto`, `cpu` or `cuda`.
        column: the column of a Parquet file's images; the only one of bytes if None.
        top_k: classes to store for an image.
        min_score: probability, 0 to 1, below which a label is unknown; None for never.
        rows: images of a file of the output; a tar gives one file, whatever it has.
        on_input: called with what of the input's folder was passed over, in words, if anything was.
        progress: called with the number of files done and the total, by the local engine. Ray
            shows its own.

    Raises:
        ValueError: there is no such engine, or `top_k`, `min_score` or `rows` is out of its range.
        NinEdgeError: the model, the input or the output is none, or Ray failed.
        OSError: the output cannot be written; the files that are complete stay.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}: expected one of {', '.join(ENGINES)}")
    top_k, rows = whole_number("top_k", top_k, 1), whole_number("rows", rows, 1)
    if min_score is not None:
        min_score = probability("min_score", min_score)
    data, info = read_model(DEFAULT_MODEL if model is None else model)
    found = open_input(Path(source), column=column, rows=rows)
    if on_input is not None and found.passed_over:
        on_input(found.passed_over)
    on_ray = engine == "ray"
    job = Job(
        data,
        found.source.absolute(),
        provider="cpu" if on_ray else provider,
        top_k=top_k,
        min_score=min_score,
        workers=1 if on_ray else usable_threads(),
    )
    if on_ray:  # what is missing ends here, before any file
        from nin_edge.score.ray_engine import import_ray, run_on_ray

        import_ray()
    else:
        job.classify  # noqa: B018
    about = {
        "model": {"sha256": info.sha256},
        "input": found.to_json(),
        "settings": {"top_k": top_k, "min_score": min_score, "rows": rows, "column": found.column},
        "path": os.fspath(Path(source).absolute()),
    }
    folder = Path(out).absolute()
    with open_output(Path(out), about):
        files = [shard_file(folder, index) for index in range(len(found.shards))]
        work = [
            (shard, file)
            for shard, file in zip(found.shards, files, strict=True)
            if not file.exists()
        ]
        if on_ray and work:
            run_on_ray(job, work)
        else:
            _run_here(job, work, len(files), progress)
        return summarise(Path(out), len(files), len(work))


def _run_here(
    job: Job, work: Work, total: int, progress: Callable[[int, int], None] | None
) -> None:
    """Score shards one after the other, each with all threads."""
    for done, (shard, file) in enumerate(work, total - len(work) + 1):
        job.write(shard, file)
        if progress is not None:
            progress(done, total)

"""`nin-edge score`: label millions of images, into Parquet files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import click

from nin_edge.cli._common import (
    EXIT_FAILED,
    PATH,
    clear_line,
    min_score_option,
    model_option,
    printable,
    provider_option,
    top_k_option,
)

_ENGINES: Final = ("local", "ray")  # those of `nin_edge.score`, which the help must not import


@click.command("score", short_help="Label the images IN, however many, into Parquet files.")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("out", metavar="OUT", type=PATH)
@model_option
@click.option(
    "--engine",
    type=click.Choice(_ENGINES),
    default="local",
    show_default=True,
    help="local: threads of this process. ray: processes of Ray Data, on the CPU.",
)
@provider_option
@click.option(
    "--column",
    metavar="NAME",
    help="Column of a Parquet file that has the images' bytes, if it has several.",
)
@top_k_option
@min_score_option
@click.option(
    "--rows",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="Images of one file of OUT; a tar always gives one file.",
)
def command(
    source: Path,
    out: Path,
    model: Path | None,
    engine: str,
    provider: str,
    column: str | None,
    top_k: int,
    min_score: float | None,
    rows: int,
) -> None:
    """Label the images IN, however many, into Parquet files.

    IN is a folder of images; a Parquet file with a column of encoded images, or a tar, such as
    WebDataset's; or a folder of such files. OUT is a folder: one Parquet file for each 1,000
    images, or for each tar, with path, label, score, unknown, top_labels, top_scores and error.

    An unreadable image is a row with an error, and the exit code is 1. After an interruption, the
    same command goes on with the files that are missing.
    """
    if engine == "ray" and provider == "cuda":
        raise click.UsageError("--engine ray computes on the CPU, --provider cuda needs local")
    from nin_edge.cli._data import show_progress
    from nin_edge.score import score

    warnings.filterwarnings("ignore", module=r"PIL\.")  # each image gets a label or an error

    def show_input(passed: str) -> None:
        click.echo(printable(f"{source}: passed over {passed}"), err=True)

    summary = score(
        *(source, out),
        model=model,
        engine=engine,
        provider=provider,
        column=column,
        top_k=top_k,
        min_score=min_score,
        rows=rows,
        on_input=show_input,
        progress=show_progress("scoring, files"),
    )
    clear_line()
    before = summary.files - summary.written
    click.echo(
        f"{summary.images:,} images in {summary.files:,} files: {printable(str(out))}"
        + (f" ({before:,} were there before)" if before else "")
    )
    if summary.errors:
        click.echo(
            f"{summary.errors:,} of {summary.images:,} images could not be read: column error",
            err=True,
        )
        raise click.exceptions.Exit(EXIT_FAILED)

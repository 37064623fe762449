"""`nin-edge run`: label images."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nin_edge.cli import EXIT_FAILED, NumberRange, model_option, printable, provider_option

if TYPE_CHECKING:
    from nin_edge_runtime import ImageError


@click.command("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_option
@provider_option
@click.option(
    "--top-k",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Classes to print for an image.",
)
@click.option(
    "--min-score", type=NumberRange(0, 1), help="Probability below which an answer is unknown."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(
    images: tuple[str, ...],
    model: Path | None,
    provider: str,
    top_k: int,
    min_score: float | None,
    as_json: bool,
) -> None:
    """Label each IMAGE: a file, a folder (its images, subfolders too, sorted), or - for stdin.

    An image that cannot be read is reported on stderr, and the exit code is then 1; the others are
    answered.
    """
    from nin_edge_runtime import Classifier, ImageError

    classify = Classifier(model, provider=provider, min_score=min_score)
    sources = list(_sources(images))
    width = max((len(printable(name)) for name, _ in sources), default=0)
    failed = 0
    for name, source in sources:
        try:
            if isinstance(source, ImageError):
                raise source
            prediction = classify(_stdin() if source is None else source)
        except ImageError as error:
            failed += 1
            reason = str(error).removeprefix(f"{name}: ")
            if as_json:
                click.echo(json.dumps({"image": name, "error": reason}))
            click.echo(printable(f"{name}: {reason}"), err=True)
            continue
        top = prediction.top(top_k)
        if as_json:
            answer = {
                "image": name,
                "label": prediction.label,
                "score": round(prediction.score, 6),
                "unknown": prediction.unknown,
                "top": [{"label": label, "score": round(score, 6)} for label, score in top],
            }
            click.echo(json.dumps(answer, allow_nan=False))
            continue
        cells = [f"{printable(label)} {score:.1%}" for label, score in top]
        if prediction.unknown:
            cells.insert(0, "unknown")
        click.echo(
            "  ".join([printable(name).ljust(width), *(cell.ljust(17) for cell in cells)]).rstrip()
        )
    if failed:
        if len(sources) > 1:
            click.echo(f"{failed} of {len(sources)} images could not be read", err=True)
        raise click.exceptions.Exit(EXIT_FAILED)


def _stdin() -> bytes:
    from nin_edge_runtime import ImageError

    if sys.stdin is None:
        raise ImageError("-: standard input is closed, expected an image on it")
    return sys.stdin.buffer.read()


def _sources(images: tuple[str, ...]) -> Iterator[tuple[str, Path | ImageError | None]]:
    """Each image's name, with its path, None for stdin, or the error of a folder without images."""
    from nin_edge_runtime import ImageError
    from nin_edge_runtime.image import find_images

    for image in images:
        if image == "-":
            yield "-", None
            continue
        if not image:
            yield image, ImageError("an empty name, expected an image")
            continue
        try:
            for path in find_images([image]):
                yield str(path), path
        except (ImageError, OSError) as error:
            yield image, ImageError(str(error))

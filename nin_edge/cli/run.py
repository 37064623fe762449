"""`nin-edge run`: label images, or the frames of a video."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
from nin_edge.cli._images import Source, draw_heatmap, heatmap_paths, open_sources
from nin_edge.text import without_name

if TYPE_CHECKING:
    from nin_edge_runtime import Classifier, ImageError, Prediction

_BATCH: Final = 8  # images of one inference, if there are several


@click.command("run")
@click.argument("images", nargs=-1, metavar="[IMAGE...]")
@model_option
@provider_option
@top_k_option
@min_score_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--heatmap",
    type=PATH,
    metavar="OUT",
    help="Draw class activation maps: to a file for one image, to a folder for several.",
)
@click.option(
    "--video", metavar="SOURCE", help="Label a video file or a camera (its index), not images."
)
@click.option(
    "--every", type=click.IntRange(1), metavar="N", help="With --video: take every N-th frame."
)
def command(
    images: tuple[str, ...],
    model: Path | None,
    provider: str,
    top_k: int,
    min_score: float | None,
    as_json: bool,
    heatmap: Path | None,
    video: str | None,
    every: int | None,
) -> None:
    """Label images, or the frames of a video.

    IMAGE is a file, a folder (its images and those of its subfolders, sorted), or - for stdin.

    An unreadable image is reported on stderr, the others are still labelled, and the exit code
    is 1.
    """
    if bool(images) == (video is not None) or video == "":
        raise click.UsageError("expected either images or --video")
    if every is not None and video is None:
        raise click.UsageError("--every needs --video")
    if heatmap is not None and video is not None:
        raise click.UsageError("--heatmap is for images, not for --video")
    from nin_edge_runtime import Classifier

    # Pillow warns about odd EXIF data and about large images below our limit. Each image gets a
    # label or an error of ours.
    warnings.filterwarnings("ignore", module=r"PIL\.")

    if video is not None:
        classify = Classifier(model, provider=provider, min_score=min_score)
        _run_video(classify, video, every or 1, top_k, as_json=as_json)
        return
    sources = list(open_sources(images))
    heatmaps = None if heatmap is None else heatmap_paths(heatmap, images, sources)
    # With many images, one thread for each of several images is faster than several threads for
    # one image.
    threads = 1 if len(sources) > 1 else None
    classify = Classifier(model, provider=provider, threads=threads, min_score=min_score)
    failed = _run_images(classify, sources, heatmaps, top_k, as_json=as_json)
    if failed:
        if len(sources) > 1:
            click.echo(f"{failed} of {len(sources)} images could not be read", err=True)
        raise click.exceptions.Exit(EXIT_FAILED)


def _run_images(
    classify: Classifier,
    sources: Sequence[Source],
    heatmaps: Sequence[Path] | None,
    top_k: int,
    *,
    as_json: bool,
) -> int:
    """Print each image's prediction, and draw its heatmap; return the number of failed images."""
    from nin_edge.cli._data import show_progress
    from nin_edge_runtime import ImageError

    progress = show_progress("labelling images") if len(sources) > 1 else None
    size = classify.info.preprocessing.size
    width = max(len(printable(source.name)) for source in sources)
    failed = 0
    for index, (source, result) in enumerate(
        zip(sources, _results(classify, sources), strict=True)
    ):
        name = source.name
        if progress is not None:
            clear_line()
        if isinstance(result, ImageError):
            failed += 1
            reason = without_name(result, name)
            if as_json:
                click.echo(json.dumps({"image": name, "error": reason}))
            click.echo(printable(f"{name}: {reason}"), err=True)
        else:
            if as_json:
                _print_json({"image": name}, result, top_k)
            else:
                _print_row(printable(name).ljust(width), result, top_k)
            if heatmaps is not None:
                assert not isinstance(source.image, ImageError)  # it has a prediction
                try:
                    draw_heatmap(source.image, result, heatmaps[index], size)
                except ImageError as error:  # it is decoded again, and may have changed
                    failed += 1
                    click.echo(printable(f"{heatmaps[index]}: not drawn, {error}"), err=True)
        if progress is not None:
            progress(index + 1, len(sources))
    return failed


def _results(classify: Classifier, sources: Sequence[Source]) -> Iterator[Prediction | ImageError]:
    """Give each source's prediction or error, in order; several images are computed at once."""
    from nin_edge_runtime import ImageError
    from nin_edge_runtime.threads import usable_threads

    several = len(sources) > 1
    results = classify.stream(
        (source.image for source in sources if not isinstance(source.image, ImageError)),
        batch_size=_BATCH if several else 1,
        workers=usable_threads() if several else 0,
    )
    for source in sources:
        yield source.image if isinstance(source.image, ImageError) else next(results)


def _run_video(classify: Classifier, source: str, every: int, top_k: int, *, as_json: bool) -> None:
    """Print the prediction of each frame that is taken, as soon as it is there."""
    from nin_edge_runtime.video import frames, public_name

    with closing(frames(source, every=every)) as taken:
        for frame in taken:
            prediction = classify(frame.pixels, bgr=True)
            if as_json:
                fields = {"video": public_name(source), "frame": frame.index}
                _print_json(fields | {"seconds": round(frame.seconds, 3)}, prediction, top_k)
            else:
                _print_row(f"frame {frame.index:>6} {frame.seconds:>9.2f} s", prediction, top_k)


def _print_row(name: str, prediction: Prediction, top_k: int) -> None:
    cells = [f"{printable(label)} {score:.1%}" for label, score in prediction.top(top_k)]
    if prediction.unknown:
        cells.insert(0, "unknown")
    click.echo("  ".join([name, *(cell.ljust(17) for cell in cells)]).rstrip())


def _print_json(source_fields: dict[str, Any], prediction: Prediction, top_k: int) -> None:
    top = prediction.top(top_k)
    fields = {
        "label": prediction.label,
        "score": round(prediction.score, 6),
        "unknown": prediction.unknown,
        "top": [{"label": label, "score": round(score, 6)} for label, score in top],
    }
    click.echo(json.dumps(source_fields | fields, allow_nan=False))

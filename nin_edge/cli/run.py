"""`nin-edge run`: label images, or the frames of a video."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nin_edge.cli import (
    EXIT_FAILED,
    PATH,
    NumberRange,
    clear_line,
    model_option,
    printable,
    provider_option,
)

if TYPE_CHECKING:
    from nin_edge_runtime import Classifier, ImageError, Prediction

    Sources = list[tuple[str, Path | bytes | ImageError]]

_BATCH: Final = 8  # images of one run of the network where there are several


@click.command("run")
@click.argument("images", nargs=-1, metavar="[IMAGE...]")
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
@click.option(
    "--heatmap",
    type=PATH,
    metavar="OUT",
    help="Draw where the network saw its answer: a file for one image, a folder for several.",
)
@click.option(
    "--video",
    metavar="SOURCE",
    help="Label the frames of a video file or of a camera (its index), in place of images.",
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
    """Label each IMAGE: a file, a folder (its images, subfolders too, sorted), or - for stdin.

    An image that cannot be read is reported on stderr, and the exit code is then 1; the others are
    answered.
    """
    if bool(images) == (video is not None) or video == "":
        raise click.UsageError("expected either images or --video")
    if every is not None and video is None:
        raise click.UsageError("--every goes with --video")
    if heatmap is not None and video is not None:
        raise click.UsageError("--heatmap goes with images, not with --video")
    from nin_edge_runtime import Classifier

    # Pillow's, of odd EXIF and of pictures that are large, but not too large: each gets an answer
    # or an error of ours.
    warnings.filterwarnings("ignore", module=r"PIL\.")

    if video is not None:
        classify = Classifier(model, provider=provider, min_score=min_score)
        _run_video(classify, video, every or 1, top_k, as_json=as_json)
        return
    sources = list(_sources(images))
    pictures = _heatmap_paths(heatmap, images, sources) if heatmap is not None else None
    # Many images go side by side, which uses the CPUs better than several threads for each.
    threads = 1 if len(sources) > 1 else None
    classify = Classifier(model, provider=provider, threads=threads, min_score=min_score)
    failed = _run_images(classify, sources, pictures, top_k, as_json=as_json)
    if failed:
        if len(sources) > 1:
            click.echo(f"{failed} of {len(sources)} images could not be read", err=True)
        raise click.exceptions.Exit(EXIT_FAILED)


def _run_images(
    classify: Classifier,
    sources: Sources,
    pictures: list[Path] | None,
    top_k: int,
    *,
    as_json: bool,
) -> int:
    """Print an answer for each image, and draw its heatmap; returns how many could not be read."""
    from nin_edge.cli._data import show_progress
    from nin_edge_runtime import ImageError

    progress = show_progress("labelling images") if len(sources) > 1 else None
    width = max(len(printable(name)) for name, _ in sources)
    failed = 0
    for index, ((name, source), answer) in enumerate(
        zip(sources, _answers(classify, sources), strict=True)
    ):
        if progress is not None:
            clear_line()
        if isinstance(answer, ImageError):
            failed += 1
            reason = str(answer).removeprefix(f"{name}: ")
            if as_json:
                click.echo(json.dumps({"image": name, "error": reason}))
            click.echo(printable(f"{name}: {reason}"), err=True)
        else:
            if as_json:
                _print_json({"image": name}, answer, top_k)
            else:
                _print_row(printable(name).ljust(width), answer, top_k)
            if pictures is not None:
                assert not isinstance(source, ImageError)  # it has an answer
                _draw(source, answer, pictures[index], classify.info.preprocessing.size)
        if progress is not None:
            progress(index + 1, len(sources))
    return failed


def _answers(classify: Classifier, sources: Sources) -> Iterator[Prediction | ImageError]:
    """The answer for each source, in order; of many, several at once."""
    from nin_edge_runtime import ImageError
    from nin_edge_runtime.threads import usable_threads

    many = len(sources) > 1
    answers = classify.stream(
        (source for _, source in sources if not isinstance(source, ImageError)),
        batch_size=_BATCH if many else 1,
        workers=usable_threads() if many else 0,
    )
    for _, source in sources:
        yield source if isinstance(source, ImageError) else next(answers)


def _run_video(classify: Classifier, source: str, every: int, top_k: int, *, as_json: bool) -> None:
    """Print an answer for each frame taken, as soon as there is one."""
    from nin_edge_runtime.video import frames, public_name

    with closing(frames(source, every=every)) as taken:
        for frame in taken:
            answer = classify(frame.pixels, bgr=True)
            if as_json:
                where = {"video": public_name(source), "frame": frame.index}
                _print_json(where | {"seconds": round(frame.seconds, 3)}, answer, top_k)
            else:
                _print_row(f"frame {frame.index:>6} {frame.seconds:>9.2f} s", answer, top_k)


def _print_row(name: str, answer: Prediction, top_k: int) -> None:
    cells = [f"{printable(label)} {score:.1%}" for label, score in answer.top(top_k)]
    if answer.unknown:
        cells.insert(0, "unknown")
    click.echo("  ".join([name, *(cell.ljust(17) for cell in cells)]).rstrip())


def _print_json(where: dict[str, Any], answer: Prediction, top_k: int) -> None:
    what = {
        "label": answer.label,
        "score": round(answer.score, 6),
        "unknown": answer.unknown,
        "top": [{"label": label, "score": round(score, 6)} for label, score in answer.top(top_k)],
    }
    click.echo(json.dumps(where | what, allow_nan=False))


def _sources(images: tuple[str, ...]) -> Iterator[tuple[str, Path | bytes | ImageError]]:
    """Each image's name, with its path, stdin's bytes, or the error of what holds no image."""
    from nin_edge_runtime import ImageError
    from nin_edge_runtime.image import find_images

    for image in images:
        if image == "-":
            if sys.stdin is None:
                yield "-", ImageError("standard input is closed, expected an image on it")
            else:
                yield "-", sys.stdin.buffer.read()
            continue
        if not image:
            yield image, ImageError("an empty name, expected an image")
            continue
        try:
            for path in find_images([image]):
                yield str(path), path
        except (ImageError, OSError) as error:
            yield image, ImageError(str(error))


def _heatmap_paths(out: Path, images: tuple[str, ...], sources: Sources) -> list[Path]:
    """Where each image's heatmap goes; a folder is made, and what cannot work is refused first."""
    from nin_edge.cli._data import require_folder
    from nin_edge_runtime import NinEdgeError

    if len(sources) == 1 and not out.is_dir() and not Path(images[0]).is_dir():
        if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise click.UsageError(f"--heatmap {out}: expected a name that ends in .png or .jpg")
        source = sources[0][1]
        if isinstance(source, Path) and out.exists() and out.samefile(source):
            raise NinEdgeError(f"{out}: the image itself, expected another file for its heatmap")
        require_folder(out.parent)
        out.parent.mkdir(parents=True, exist_ok=True)
        return [out]
    require_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    originals = {source.resolve() for _, source in sources if isinstance(source, Path)}
    paths: dict[Path, None] = {}  # in their order
    for name, _ in sources:
        plain, count = Path(name).name if name != "-" else "stdin", 1
        path = out / f"{plain}.png"
        while path in paths:
            count += 1
            path = out / f"{plain}-{count}.png"
        if path.resolve() in originals:
            raise NinEdgeError(f"{path}: one of the images, expected another folder for heatmaps")
        paths[path] = None
    return list(paths)


def _draw(source: Path | bytes, answer: Prediction, path: Path, size: int) -> None:
    """Write the heatmap of an answer; `size` is the side of the network's input."""
    import io

    from nin_edge.files import write_atomically
    from nin_edge_runtime import heatmap

    encoded = io.BytesIO()
    picture = heatmap.overlay(source, answer, size=size)
    picture.save(encoded, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    write_atomically(path, encoded.getvalue())

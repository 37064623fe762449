"""The images of `nin-edge run`, and the files of their heatmaps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nin_edge.cli._common import printable

if TYPE_CHECKING:
    from nin_edge_runtime import ImageError, Prediction


@dataclass(frozen=True)
class Source:
    """One image to label."""

    name: str
    """The name that is printed: its path, or `-` for standard input."""
    image: Path | bytes | ImageError
    """Its path or its bytes, or the reason why there is no image."""


def open_sources(arguments: Sequence[str]) -> Iterator[Source]:
    """Expand the command's arguments to images: files, folders, and `-` for standard input."""
    from nin_edge_runtime import ImageError
    from nin_edge_runtime.folders import list_images

    for argument in arguments:
        if argument == "-":
            if sys.stdin is None:
                reason = ImageError("standard input is closed, expected an image on it")
                yield Source(argument, reason)
            else:
                yield Source(argument, sys.stdin.buffer.read())
            continue
        if not argument:
            yield Source(argument, ImageError("an empty name, expected an image"))
            continue
        folder = Path(argument)
        try:
            listing = list_images(folder) if folder.is_dir() else None
            # A pipe is read once, for the label and for the heatmap.
            image = folder.read_bytes() if folder.is_fifo() else folder
        except (ImageError, OSError) as error:
            yield Source(argument, ImageError(str(error)))
            continue
        if listing is None:
            yield Source(str(folder), image)
            continue
        if passed := listing.passed_over():
            click.echo(printable(f"{folder}: passed over {passed}"), err=True)
        for name in listing.images_by_folder():
            yield Source(str(folder / name), folder / name)
        for name, why in listing.unreadable:
            yield Source(str(folder / name), ImageError(why))


def heatmap_paths(out: Path, arguments: Sequence[str], sources: Sequence[Source]) -> list[Path]:
    """Choose the file of each image's heatmap, and make the folder, before anything is labelled.

    Args:
        out: the value of `--heatmap`: a file for one image, a folder for several.
        arguments: the images as they were named on the command line.
        sources: the images.

    Raises:
        click.UsageError: the file's ending is not one of a picture.
        NinEdgeError: a heatmap would replace an image, or a file is in the folder's place.
    """
    from nin_edge.files import mark_written, require_folder
    from nin_edge_runtime import NinEdgeError

    if len(sources) == 1 and not out.is_dir() and not Path(arguments[0]).is_dir():
        return [_heatmap_file(out, sources[0].image)]
    require_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    originals = {source.image.resolve() for source in sources if isinstance(source.image, Path)}
    paths: dict[Path, None] = {}  # an ordered set
    for source in sources:
        stem, count = Path(source.name).name if source.name != "-" else "stdin", 1
        path = out / f"{stem}.png"
        while path in paths:
            count += 1
            path = out / f"{stem}-{count}.png"
        if path.resolve() in originals:
            raise NinEdgeError(f"{path}: one of the images, expected another folder for heatmaps")
        paths[path] = None
    mark_written(out, (path.name for path in paths))
    return list(paths)


def _heatmap_file(out: Path, image: Path | bytes | ImageError) -> Path:
    """Check the file for the only image's heatmap, and make its folder."""
    from nin_edge.files import mark_beside, require_folder
    from nin_edge_runtime import NinEdgeError

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise click.UsageError(f"--heatmap {out}: expected a name that ends in .png or .jpg")
    if isinstance(image, Path) and out.exists() and out.samefile(image):
        raise NinEdgeError(f"{out}: the image itself, expected another file for its heatmap")
    require_folder(out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path):
        mark_beside(image.parent, out)
    return out


def draw_heatmap(image: Path | bytes, prediction: Prediction, path: Path, size: int) -> None:
    """Write the heatmap of an image's prediction.

    Args:
        image: its path or its bytes.
        prediction: its prediction.
        path: the file to write, PNG or JPEG by its ending.
        size: side of the network's input, in pixels.
    """
    import io

    from nin_edge.files import write_atomically
    from nin_edge_runtime.heatmap import overlay

    encoded = io.BytesIO()
    picture = overlay(image, prediction, size=size)
    picture.save(encoded, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    write_atomically(path, encoded.getvalue())

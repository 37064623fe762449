"""What the verbs that read a data set share: what they say of it, their progress, their device."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nin_edge.cli import on_terminal, printable

if TYPE_CHECKING:
    from nin_edge.data.datasets import Dataset

KINDS: Final = ("folder", "cifar10", "cifar100", "mnist", "fashion-mnist")
"""`nin_edge.data.datasets.KINDS`, which the help must not import."""

_EXAMPLES: Final = 3  # pairs of equal images that are named

dataset_option = click.option(
    "--dataset",
    "official",
    type=click.Choice(KINDS),
    help="What DATA is; found by looking at it if not given.",
)
download_option = click.option(
    "--download",
    is_flag=True,
    help="Fetch what --dataset or a DATA such as mnist names, if it is not there.",
)


def open_data(
    data: Path, size: int, channels: int, kind: str | None, *, fetch: bool, quiet: bool = False
) -> Dataset:
    """Open a data set, after fetching it where that is asked for, and say what was found."""
    from nin_edge.data import datasets

    if fetch:
        datasets.fetch(data, kind, progress=_show_download)
    dataset = datasets.open_dataset(
        data, size=size, channels=channels, kind=kind, progress=show_progress("reading images")
    )
    if not quiet:
        describe(dataset)
    return dataset


def _show_download(name: str, done: int, total: int) -> None:
    show_progress(f"fetching {name}, bytes")(done, total)


def describe(dataset: Dataset) -> None:
    """Say what was found, and what could not be read."""
    for name, reason in dataset.unreadable:
        click.echo(printable(f"left out {name}: {reason}"), err=True)
    if dataset.unreadable:
        click.echo(f"{len(dataset.unreadable)} unreadable files left out", err=True)
    click.echo(
        f"{printable(dataset.name)}: {_title(dataset)}{len(dataset.labels)} classes, "
        f"{len(dataset.train):,} images to fit, "
        f"{len(dataset.holdout):,} held out, {len(dataset.test):,} to test",
        err=True,
    )
    if dataset.duplicates:
        pairs = [f"{test} = {train}" for test, train in dataset.duplicates[:_EXAMPLES]]
        more = ", ..." if len(dataset.duplicates) > _EXAMPLES else ""
        click.echo(
            f"warning: {len(dataset.duplicates):,} of {len(dataset.test):,} test images are also "
            "training images, pixel for pixel, which flatters the test score "
            f"({printable(', '.join(pairs))}{more})",
            err=True,
        )


def _title(dataset: Dataset) -> str:
    """What an official archive is called; a folder of images speaks for itself."""
    from nin_edge.data.official.formats import TITLES

    return f"{TITLES[dataset.kind]}, " if dataset.kind in TITLES else ""


def show_progress(what: str) -> Callable[[int, int], None]:
    """Prints `what` and how far it is: a line redrawn on a terminal, nothing elsewhere."""

    def show(done: int, total: int) -> None:
        if on_terminal():
            click.echo(f"\r{what} {done:,} / {total:,}", nl=done == total, err=True)

    return show


def torch_device(option: str, name: str) -> str:
    """The torch device of `--device` or `--provider`: `auto` takes CUDA where torch sees one."""
    import torch

    from nin_edge_runtime.errors import ProviderError

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ProviderError(
            f"{option} cuda: torch sees no CUDA device here; use {option} cpu, or auto"
        )
    return "cuda" if available and name != "cpu" else "cpu"


def require_folder(path: Path) -> None:
    """Make sure that a folder is there or can be made, before any work is done for it.

    Raises:
        NinEdgeError: a file lies in its place or on the way to it.
    """
    from nin_edge_runtime.errors import NinEdgeError

    for part in (path, *path.parents):
        if part.is_dir():
            if not os.access(part, os.W_OK):
                raise NinEdgeError(f"{part}: not writable, expected a folder to write to")
            return
        if part.exists():
            raise NinEdgeError(f"{part}: a file, expected a folder to write to")

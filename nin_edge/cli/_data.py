"""What the verbs that read a data set share: its options, its description, progress, the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nin_edge.cli._common import on_terminal, printable

if TYPE_CHECKING:
    from nin_edge.data import Dataset, Location
    from nin_edge.training.progress import Loading, Opened

DATASETS: Final = ("folder", "cifar10", "cifar100", "mnist", "fashion-mnist")
"""`FOLDER` and the names in `OFFICIAL` of `nin_edge.data`, which the help must not import."""

_EXAMPLES: Final = 3  # duplicates that are named

dataset_option = click.option(
    "--dataset",
    "official",
    type=click.Choice(DATASETS),
    help="What DATA is; found by looking into it if not given.",
)
download_option = click.option(
    "--download",
    is_flag=True,
    help="Fetch the official data set that DATA or --dataset names, if it is not there.",
)


def locate_data(data: Path, official: str | None, *, download: bool) -> Location:
    """Find a data set, with the progress of its download."""
    from nin_edge.data import locate

    return locate(data, official=official, download=download, progress=_show_download)


def open_data(location: Location, size: int, channels: int, *, quiet: bool = False) -> Dataset:
    """Open a data set, with the progress of its decoding, and describe it."""
    from nin_edge.data import open_dataset

    dataset = open_dataset(
        location, size=size, channels=channels, progress=show_progress("reading images")
    )
    if not quiet:
        describe(dataset)
    return dataset


def describe(dataset: Dataset) -> None:
    """Print what is in a data set, what could not be read, and what is in it twice."""
    from nin_edge.data import OFFICIAL

    for name, reason in dataset.unreadable:
        click.echo(printable(f"left out {name}: {reason}"), err=True)
    if dataset.unreadable:
        click.echo(f"{len(dataset.unreadable)} unreadable files left out", err=True)
    if dataset.passed_over:
        click.echo(printable(f"passed over {dataset.passed_over}"), err=True)
    title = f"{OFFICIAL[dataset.official]}, " if dataset.official else ""
    click.echo(
        f"{printable(dataset.name)}: {title}{len(dataset.labels)} classes, "
        f"{len(dataset.train):,} training images, {len(dataset.holdout):,} hold-out, "
        f"{len(dataset.test):,} test",
        err=True,
    )
    if dataset.duplicates:
        pairs = [f"{test} = {train}" for test, train in dataset.duplicates[:_EXAMPLES]]
        more = ", ..." if len(dataset.duplicates) > _EXAMPLES else ""
        click.echo(
            f"warning: {len(dataset.duplicates):,} of {len(dataset.test):,} test images are also "
            "training images, pixel for pixel, which inflates the test accuracy "
            f"({printable(', '.join(pairs))}{more})",
            err=True,
        )


def show_event(event: Loading | Opened) -> None:
    """Print what happens to a data set: how far reading it is, and what is in it."""
    from nin_edge.training.progress import Loading

    if isinstance(event, Loading):
        show_progress(event.task)(event.done, event.total)
    else:
        describe(event.dataset)


def show_progress(task: str) -> Callable[[int, int], None]:
    """A callback that prints how far a task is: a line redrawn on a terminal, nothing elsewhere."""

    def show(done: int, total: int) -> None:
        if on_terminal():
            click.echo(f"\r{task} {done:,} / {total:,}", nl=done == total, err=True)

    return show


def _show_download(name: str, done: int, total: int) -> None:
    show_progress(f"fetching {name}, bytes")(done, total)

"""What the verbs that read a data set share: its options, its description, progress, the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import click

from nin_edge.cli._common import PATH, NumberRange, on_terminal, printable
from nin_edge.text import list_some, shortened

if TYPE_CHECKING:
    from nin_edge.data import Dataset, Location
    from nin_edge.training.progress import Loading, Opened

LARGEST_TEST_SPLIT: Final = 0.9
"""That of `nin_edge.data.location`, too."""

DATASETS: Final = ("folder", "cifar10", "cifar100", "mnist", "fashion-mnist")
"""`FOLDER` and the names in `OFFICIAL` of `nin_edge.data`, which the help must not import."""

SPLIT_CHOICES: Final = ("test", "validation", "holdout", "train", "all")
"""`SPLITS` of `nin_edge.data`, which the help must not import."""

_EXAMPLES: Final = 3  # duplicates that are named
_LEFT_OUT: Final = 10  # files left out that are named
_LONGEST: Final = 500  # characters of such a line

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
labels_option = click.option(
    "--labels",
    type=PATH,
    metavar="FILE.csv",
    help="Take the classes from a table with the columns image and label, not from folders.",
)
test_split_option = click.option(
    "--test-split",
    type=NumberRange(0, LARGEST_TEST_SPLIT, min_open=True),
    metavar="SHARE",
    help="Take this part of each class's training images as the test split of data without one.",
)
zip_encoding_option = click.option(
    "--zip-encoding",
    metavar="NAME",
    help="Encoding of the names in a zip that does not state it, such as cp949; guessed if not "
    "given.",
)


def open_data(location: Location, size: int, channels: int, classes: Sequence[str]) -> Dataset:
    """Open a data set for a model of these classes, with its progress, and describe it."""
    from nin_edge.data import open_dataset

    dataset = open_dataset(
        *(location,),
        size=size,
        channels=channels,
        classes=classes,
        progress=show_progress("reading images"),
    )
    describe(dataset)
    return dataset


def describe(dataset: Dataset) -> None:
    """Print what is in a data set, what could not be read, and what is in it twice."""
    from nin_edge.data import OFFICIAL

    show_unreadable(dataset.unreadable)
    if dataset.passed_over:
        click.echo(printable(f"passed over {dataset.passed_over}"), err=True)
    title = f"{OFFICIAL[dataset.official]}, " if dataset.official else ""
    held_out = "validation" if "validation" in dataset.splits else "hold-out"
    click.echo(
        f"{printable(dataset.name)}: {title}{len(dataset.labels)} classes, "
        f"{len(dataset.train):,} training images, {len(dataset.holdout):,} {held_out}, "
        f"{len(dataset.test):,} test",
        err=True,
    )
    click.echo(f"labels: {printable(list_some(dataset.labels))}", err=True)
    if missing := dataset.missing:
        click.echo(
            f"no images of {len(missing):,} of the model's {len(dataset.labels):,} classes: "
            f"{printable(list_some(missing))}",
            err=True,
        )
    if dataset.duplicates:
        click.echo(
            f"warning: {len(dataset.duplicates):,} of {len(dataset.test):,} test images are also "
            "training images, pixel for pixel, which inflates the test accuracy "
            f"({_examples(dataset.duplicates)})",
            err=True,
        )
    if dataset.contradictions:
        click.echo(
            f"warning: {len(dataset.contradictions):,} of {len(dataset.targets):,} images have the "
            "pixels of an image of another class, so one of the labels is wrong "
            f"({_examples(dataset.contradictions)})",
            err=True,
        )


def show_unreadable(unreadable: Sequence[tuple[str, str]]) -> None:
    """Print (path, reason) of what was left out, the first ones by name."""
    if not unreadable:
        return
    for name, reason in unreadable[:_LEFT_OUT]:
        click.echo(shortened(f"left out {name}: {reason}", _LONGEST), err=True)
    folders = sum(name.endswith("/") for name, _ in unreadable)
    counts = (("file", len(unreadable) - folders), ("folder", folders))
    parts = [f"{count:,} {noun}{'s' * (count > 1)}" for noun, count in counts if count]
    click.echo(f"{', '.join(parts)} left out", err=True)


def explain_split(dataset: Dataset) -> None:
    """Print which images are scored, where that may surprise."""
    if dataset.default_split == "validation":
        click.echo("no test split: the validation split is scored", err=True)
    elif dataset.default_split == "holdout":
        click.echo("no test split: the hold-out of the training split is scored", err=True)
    elif dataset.default_split == "all":
        click.echo("no splits in the data, and not all classes: every image is scored", err=True)
    elif not dataset.splits:
        click.echo(
            "no splits in the data: the fifth that training sets aside is scored; --split all "
            "scores every image",
            err=True,
        )


def _examples(pairs: Sequence[tuple[str, str]]) -> str:
    """Some pairs of images with the same pixels."""
    shown = ", ".join(f"{one} = {other}" for one, other in pairs[:_EXAMPLES])
    return printable(shown) + (", ..." if len(pairs) > _EXAMPLES else "")


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


def show_download(name: str, done: int, total: int) -> None:
    """Print how far a download is."""
    show_progress(f"fetching {name}, bytes")(done, total)

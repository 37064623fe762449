"""What the verbs that read a data set share: what they say of it, their progress, their device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from nin_edge.cli import printable

if TYPE_CHECKING:
    from nin_edge.datasets import Dataset


def describe(dataset: Dataset) -> None:
    """Say what was found, and what could not be read."""
    for name, reason in dataset.unreadable:
        click.echo(printable(f"left out {name}: {reason}"), err=True)
    if dataset.unreadable:
        click.echo(f"{len(dataset.unreadable)} unreadable files left out", err=True)
    click.echo(
        f"{printable(dataset.name)}: {len(dataset.labels)} classes, "
        f"{len(dataset.fit):,} images to fit, "
        f"{len(dataset.holdout):,} held out, {len(dataset.test):,} to test",
        err=True,
    )


def show_progress(what: str) -> Callable[[int, int], None]:
    """Prints `what` and how far it is: a line redrawn on a terminal, nothing elsewhere."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
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

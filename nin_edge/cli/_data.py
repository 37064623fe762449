"""What the verbs that read a data set share: what they say of it, their progress, their device."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nin_edge.cli import on_terminal, printable

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

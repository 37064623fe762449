"""What several verbs share: exit codes, parameter types, options, and output on a terminal."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from nin_edge.text import printable as printable

EXIT_FAILED: Final = 1
EXIT_GATE: Final = 3
"""A parity or accuracy gate failed."""
EXIT_PROVIDER: Final = 4
"""The requested execution provider is not active."""


class _PathType(click.Path):
    """A path; an empty name, as from an unset shell variable, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty name, which `Path` would take for the current folder."""
        if not os.fspath(value):
            self.fail("the name is empty, expected a path", param, ctx)
        return super().convert(value, param, ctx)


class NumberRange(click.FloatRange):
    """A range of numbers, without `nan`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse `nan`, which no comparison excludes."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


PATH: Final = _PathType(path_type=Path)

model_option = click.option(
    "--model", type=PATH, help="Model file; the runtime's default model if not given."
)
provider_option = click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Execution provider; auto takes CUDA if it really starts.",
)
top_k_option = click.option(
    "--top-k",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Most probable classes of an image to give.",
)
min_score_option = click.option(
    "--min-score", type=NumberRange(0, 1), help="Probability below which a label is unknown."
)


def check_file(option: str, path: Path, ending: str) -> None:
    """Refuse before minutes of computing what would stop a file from being written after them.

    Raises:
        click.UsageError: its name has another ending.
        NinEdgeError: it is a folder, or its folder cannot be written to.
    """
    from nin_edge_runtime.errors import NinEdgeError

    if path.suffix.lower() != ending:
        raise click.UsageError(f"{option} {path}: expected a name that ends in {ending}")
    if path.is_dir():
        raise NinEdgeError(f"{path}: a folder, expected a file to write to")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise NinEdgeError(f"{path}: {path.parent} is not a folder that can be written to")


def on_terminal() -> bool:
    """Whether stderr is a terminal: progress is shown there, and nowhere else."""
    return sys.stderr is not None and sys.stderr.isatty()


def clear_line() -> None:
    """Remove a line of progress from the terminal."""
    if on_terminal():
        click.echo("\r\033[K", nl=False, err=True)


def shell_quoted(path: Path) -> str:
    """A path that can be pasted into a shell, without control characters."""
    import shlex

    return printable(shlex.quote(f"./{path}" if str(path).startswith("-") else str(path)))

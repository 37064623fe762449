"""Reference pages that are made from the code: the command line and the recipe's settings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Final

RECIPE: Final = Path(__file__).parent.parent / "nin_edge" / "training" / "recipe.py"
_COLUMNS: Final = 100  # of the help texts

_EXIT_CODES: Final = (
    (0, "success"),
    (1, "failure: an image or a model cannot be read, a package is missing"),
    (2, "wrong usage"),
    (3, "a comparison failed: golden samples, parity with PyTorch, or the accuracy budget"),
    (4, "the requested provider is unknown or not active"),
    (130, "interrupted by Ctrl-C"),
    (143, "ended by SIGTERM: the process ends by that signal, or as process 1 with this code"),
    (129, "the same, by SIGHUP"),
)


def cli() -> str:
    """Usage, options and help of `nin-edge` and each of its verbs, then the exit codes."""
    import click

    from nin_edge.cli import main

    widths = {"max_content_width": _COLUMNS, "terminal_width": _COLUMNS}
    top = click.Context(main, info_name="nin-edge", **widths, **main.context_settings)
    parts = [_help("nin-edge", main.get_help(top))]
    for verb in main.list_commands(top):
        command = main.get_command(top, verb)
        assert command is not None
        context = click.Context(command, parent=top, info_name=verb)
        parts.append(_help(f"nin-edge {verb}", command.get_help(context)))
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in _EXIT_CODES)
    return "\n\n".join([*parts, f"## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}"])


def _help(command: str, text: str) -> str:
    return f"## `{command}`\n\n```text\n{text.rstrip()}\n```"


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe."""

    name: str
    """Its name for `--set NAME=VALUE`."""
    type: str
    """Its type, as in the source."""
    default: object
    """Its value where neither the preset, the data nor the user chooses another."""
    limits: tuple[float, float] | None
    """Smallest and largest value; None for a switch."""
    meaning: str
    """Its docstring, as one line."""


def recipe() -> str:
    """A table of the recipe's settings."""
    lines = ["| name | type | default | range | meaning |", "|---|---|---|---|---|"]
    for setting in settings():
        limits = "true or false"
        if setting.limits:
            limits = " to ".join(
                f"{limit:,}" if isinstance(limit, int) else f"{limit:g}" for limit in setting.limits
            )
        default = str(setting.default).lower() if setting.type == "bool" else setting.default
        lines.append(
            f"| `{setting.name}` | {setting.type} | {default} | {limits} | {setting.meaning} |"
        )
    return "\n".join(lines)


def settings() -> Iterator[Setting]:
    """The fields of `Recipe` with their ranges and docstrings."""
    from nin_edge.training.recipe import RANGES, Recipe

    meanings = field_docstrings(RECIPE.read_text("utf-8"), "Recipe")
    for field in fields(Recipe):
        limits = None if field.type == "bool" else RANGES[field.name]
        yield Setting(field.name, str(field.type), field.default, limits, meanings[field.name])


def field_docstrings(source: str, name: str) -> dict[str, str]:
    """The docstring of each field of a dataclass, which only the source has, as one line.

    Raises:
        ValueError: a field has none.
    """
    (body,) = (
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    found = {}
    for field, after in pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
            raise ValueError(f"{name}.{field.target.id} has no docstring")
        found[field.target.id] = " ".join(str(after.value.value).split())
    return found

"""Reference pages that are made from the code: the command line and the recipe's settings."""

from __future__ import annotations

import ast
from dataclasses import Field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

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
    parts = [_help(main.get_help(top))]
    for verb in main.list_commands(top):
        command = main.get_command(top, verb)
        assert command is not None
        context = click.Context(command, parent=top, info_name=verb)
        parts.append(f"## `nin-edge {verb}`\n\n{_help(command.get_help(context))}")
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in _EXIT_CODES)
    return "\n\n".join([*parts, f"## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}"])


def _help(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def recipe() -> str:
    """A table of the recipe's settings: what `--set` takes for it."""
    from nin_edge.training.recipe import RANGES, Recipe

    meanings = field_docstrings(RECIPE.read_text("utf-8"), "Recipe")
    lines = ["| name | type | default | range | meaning |", "|---|---|---|---|---|"]
    for field in fields(Recipe):
        limits = " to ".join(map(_shown, RANGES[field.name])) if field.name in RANGES else ""
        cells = (f"`{field.name}`", str(field.type), _default(field), limits, meanings[field.name])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _default(field: Field[Any]) -> str:
    """A field's default, and those of the presets that have another."""
    from nin_edge.training.recipe import RECIPES

    others = {
        preset: value
        for preset, recipe in RECIPES.items()
        if (value := getattr(recipe, field.name)) != field.default
    }
    named = (f"`{preset}` {_shown(value)}" for preset, value in others.items())
    return ", ".join([_shown(field.default), *named])


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


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

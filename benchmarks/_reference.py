"""Reference pages that are made from the code: the command line and the recipe's settings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
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
    limits: tuple[str, str] | None
    """Smallest and largest value; None for a switch."""
    meaning: str
    """Its docstring, as one line."""


def recipe(source: Path = RECIPE) -> str:
    """A table of the recipe's settings."""
    lines = ["| name | type | default | range | meaning |", "|---|---|---|---|---|"]
    for setting in settings(source):
        limits = "true or false" if setting.limits is None else "{} to {}".format(*setting.limits)
        default = str(setting.default).lower() if setting.type == "bool" else setting.default
        lines.append(
            f"| `{setting.name}` | {setting.type} | {default} | {limits} | {setting.meaning} |"
        )
    return "\n".join(lines)


def settings(source: Path) -> Iterator[Setting]:
    """The fields of the class `Recipe`, read from its source, which has their docstrings.

    Raises:
        ValueError: a field has no docstring, or a number no range.
    """
    text = source.read_text("utf-8")
    tree = ast.parse(text)
    limits = dict(_limits(tree, text))
    (recipe,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Recipe")
    for field, after in zip(recipe.body, recipe.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        name, annotation = field.target.id, ast.unparse(field.annotation)
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
            raise ValueError(f"{source.name}: Recipe.{name} has no docstring")
        if annotation != "bool" and name not in limits:
            raise ValueError(f"{source.name}: Recipe.{name} has no range")
        default = None if field.value is None else ast.literal_eval(field.value)
        meaning = " ".join(str(after.value.value).split())
        yield Setting(name, annotation, default, limits.get(name), meaning)


def _limits(tree: ast.Module, text: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """The ranges in a source file, as it writes them: tuples of a name and two numbers."""

    def written(number: ast.expr) -> str:
        return (ast.get_source_segment(text, number) or "").replace("_", ",")

    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) == 3:
            name, low, high = node.elts
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value, (written(low), written(high))

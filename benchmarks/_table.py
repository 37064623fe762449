"""How rows become a table of the docs, with the command, machine and versions below it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from benchmarks._result import Result

WIDTH: Final = 120
"""Characters in a line of the pages."""

Line: TypeAlias = Mapping[str, Any]
"""A row, or several rows joined."""


def same(lines: Sequence[Line]) -> Sequence[Line]:
    """The rows as they are."""
    return lines


@dataclass(frozen=True)
class Table:
    """How a table is made."""

    script: str
    """The benchmark whose JSON file has its rows, and its command's arguments."""
    columns: Sequence[tuple[str, str]]
    """Title and format pattern of each column, from the left; `NAME_k` and `NAME_m` are thousands
    and millions of the value NAME."""
    lines: Callable[[Sequence[Line]], Sequence[Line]] = same
    """Makes the table's lines from the rows of the file."""
    explained: str = ""
    """What the columns mean, with values of the first row filled in."""
    results: str = ""
    """Name of the JSON file, if it is not the benchmark's."""

    @property
    def name(self) -> str:
        """The benchmark's name."""
        return self.script.split()[0]

    def markdown(self, result: Result) -> str:
        """The table, its notes and its caption."""
        lines = self.lines(result.rows)
        parts = [
            _line(title for title, _ in self.columns),
            "|" + "---|" * len(self.columns),
            *(_line(_cell(pattern, line) for _, pattern in self.columns) for line in lines),
            "",
        ]
        if result.notes:
            parts += [*(f"- {note}" for note in result.notes), ""]
        explained = f"{self.explained.format_map(lines[0])} " if self.explained else ""
        return "\n".join([*parts, _wrapped(explained + caption(result))])


def _wrapped(text: str) -> str:
    """The text in lines of the pages' width; commands stay whole."""
    whole = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", "\0"), text)
    filled = textwrap.fill(whole, WIDTH, break_on_hyphens=False, break_long_words=False)
    return filled.replace("\0", " ")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(pattern: str, line: Line) -> str:
    """One cell; empty if a value was not measured."""
    values = dict(line)
    for name, value in line.items():
        if isinstance(value, int | float):
            values |= {f"{name}_k": value / 1e3, f"{name}_m": value / 1e6}
    try:
        return pattern.format_map(values)
    except TypeError:  # None has no number format
        return ""


def caption(result: Result) -> str:
    """The command, the machine, the versions and the rounds behind a table."""
    machine = result.machine
    sets = f" ({', '.join(machine.instruction_sets)})" if machine.instruction_sets else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"`{result.command}`: {machine.processor}{sets}, {machine.cpus} CPUs, {machine.system}; "
        f"Python {machine.python}, {versions}; {result.rounds}."
    )

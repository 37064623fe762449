"""A benchmark's answer as one JSON file, with what is needed to judge and to repeat it.

Every script here calls `answer`, which writes `benchmarks/results/NAME.json` and prints the rows.
`python -m benchmarks.render` makes the tables of the documentation from these files.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeAlias

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = Path(__file__).parent / "results"

Value: TypeAlias = str | int | float | Sequence[float] | None
Row: TypeAlias = Mapping[str, Value]
"""One line of a table: raw numbers by name, with their unit in the name (`latency_ms`)."""


@dataclass(frozen=True)
class Environment:
    """The machine and the software that a figure depends on."""

    processor: str
    """Name of the processor."""
    instruction_sets: tuple[str, ...]
    """Its instruction sets that matter for int8."""
    cpus: int
    """CPUs that the process could use."""
    system: str
    """Operating system and architecture."""
    python: str
    """Version of Python."""
    versions: Mapping[str, str]
    """Versions of the packages that were measured, by name."""


@dataclass(frozen=True)
class Result:
    """One benchmark's answer."""

    command: str
    """The command that gave it, without folders outside the repository."""
    commit: str
    """The commit it was measured at, abbreviated; empty outside a Git checkout."""
    dirty: bool
    """Whether files that Git tracks had changes that were not committed."""
    date: str
    """The day, in UTC, as YYYY-MM-DD."""
    machine: Environment
    """Where it was measured."""
    rounds: str
    """How often it was measured, as a phrase: `60 rounds of 10 calls`."""
    rows: tuple[Row, ...]
    """The table."""
    notes: tuple[str, ...] = ()
    """Measured facts that fit no column, a sentence each."""


def parser(doc: str | None) -> ArgumentParser:
    """A parser whose help is the script's docstring, with `--output` for `answer`."""
    made = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    made.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON file, instead of the committed one"
    )
    return made


def answer(
    name: str,
    rows: Sequence[Row],
    *,
    rounds: str,
    packages: Sequence[str],
    notes: Sequence[str] = (),
    results: str = "",
    output: Path | None = None,
) -> None:
    """Write a benchmark's JSON file and print its rows and notes.

    Args:
        name: the script's name in `benchmarks`.
        rows: the table, all rows with the same keys.
        rounds: how often it was measured, as a phrase.
        packages: distributions whose versions matter.
        notes: further sentences.
        results: name of the JSON file, if it is not the script's.
        output: the file; `benchmarks/results/NAME.json` if None.
    """
    commit, dirty = _commit()
    result = Result(
        command=_command(name, sys.argv[1:]),
        commit=commit,
        dirty=dirty,
        date=datetime.now(UTC).date().isoformat(),
        machine=_environment(packages),
        rounds=rounds,
        rows=tuple(rows),
        notes=tuple(notes),
    )
    path = output or RESULTS / f"{results or name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=2) + "\n", "utf-8")
    print(f"{result.command}: {rounds}")
    print("\n".join([*_aligned(rows), *notes]))


def read(path: Path) -> Result:
    """The answer in a JSON file that `answer` wrote."""
    stored = json.loads(path.read_text("utf-8"))
    machine = stored.pop("machine")
    sets = tuple(machine.pop("instruction_sets"))
    rows, notes = tuple(stored.pop("rows")), tuple(stored.pop("notes"))
    environment = Environment(instruction_sets=sets, **machine)
    return Result(machine=environment, rows=rows, notes=notes, **stored)


def _command(name: str, arguments: Sequence[str]) -> str:
    """The command line without places to write to; of a path elsewhere, the last part."""
    shown = [Path(text).name if Path(text).is_absolute() else text for text in arguments]
    for option in ("--output", "--root"):
        if option in shown:
            place = shown.index(option)
            del shown[place : place + 2]
    return shlex.join(["python", "-m", f"benchmarks.{name}", *shown])


def _commit() -> tuple[str, bool]:
    """The abbreviated commit, and whether tracked files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    # The figures themselves are no change of the code they were measured with.
    changed = git(
        *("status", "--porcelain", "--untracked-files=no", "--"),
        *(".", ":!benchmarks/results", ":!docs/*.png"),
    )
    return git("rev-parse", "--short=10", "HEAD"), bool(changed)


def _environment(packages: Sequence[str]) -> Environment:
    from nin_edge_runtime.bench import this_machine
    from nin_edge_runtime.cpu import cpu_features

    machine = this_machine()
    features = cpu_features().features or {}
    return Environment(
        processor=machine.processor,
        instruction_sets=tuple(name for name, present in features.items() if present),
        cpus=machine.cpus,
        system=machine.system,
        python=machine.python,
        versions={name: version(name) for name in packages},
    )


def _aligned(rows: Sequence[Row]) -> list[str]:
    """The rows as lines of text in columns."""
    if not rows:
        return []
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _text(value: Value) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(number) for number in value)
    return f"{value:.5g}" if isinstance(value, float) else "-" if value is None else str(value)

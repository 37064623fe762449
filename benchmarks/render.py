"""Fills the generated parts of README.md and docs/ from the benchmarks' answers and the code.

    python -m benchmarks.render [--check]

A generated part stands between `<!-- rendered: NAME -->` and `<!-- end -->`. NAME is a table of
`_tables.py`, `cli` (from click), `recipe` (from the source of `Recipe`) or one of the `metadata`
tables (from the JSON Schema). With `--check`, nothing
is written; if a part is out of date, stderr names it and the exit code is 1.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import _reference, _schema
from benchmarks._result import RESULTS, ROOT, read
from benchmarks._tables import TABLES

REFERENCES: Final[Mapping[str, Callable[[], str]]] = {
    "cli": _reference.cli,
    "recipe": _reference.recipe,
    "metadata": _schema.table,
    **{f"metadata-{part}": partial(_schema.table, part) for part in _schema.parts()},
}

_MARKER: Final = re.compile(r"(?m)^<!-- (?:rendered: (?P<name>\S+)|(?P<end>end)) -->\n")


class RenderError(ValueError):
    """A block that cannot be rendered; the message names it and what to do."""


def block(name: str, results: Path = RESULTS) -> str:
    """The text of a block.

    Raises:
        RenderError: there is no such block, or its benchmark has not been run.
    """
    if name in REFERENCES:
        return REFERENCES[name]()
    if name not in TABLES:
        known = ", ".join(sorted({*TABLES, *REFERENCES}))
        raise RenderError(f"no block {name!r}: expected one of {known}")
    table = TABLES[name]
    path = results / f"{table.results or table.name}.json"
    if not path.is_file():
        raise RenderError(f"no results for {name!r}: run python -m benchmarks.{table.script}")
    return table.markdown(read(path))


def render(text: str, make: Callable[[str], str] = block) -> tuple[str, list[str]]:
    """A page with all blocks up to date, and the names of those that were not.

    Args:
        text: the page.
        make: gives a block's text by name.

    Raises:
        RenderError: a marker without its counterpart, or `make` failed.
    """
    parts: list[str] = []
    stale: list[str] = []
    written = 0  # position up to which the page is in `parts`
    name: str | None = None
    for marker in _MARKER.finditer(text):
        if (marker["end"] is None) == (name is not None):
            line = text.count("\n", 0, marker.start()) + 1
            raise RenderError(f"line {line}: {marker[0].strip()} without its counterpart")
        if name is not None:
            fresh = f"{make(name)}\n"
            if fresh != text[written : marker.start()]:
                stale.append(name)
            parts.append(fresh)
            written = marker.start()
        name = marker["name"]
        parts.append(text[written : marker.end()])
        written = marker.end()
    if name is not None:
        raise RenderError(f"block {name!r} has no <!-- end -->")
    return "".join(parts) + text[written:], stale


def pages(root: Path = ROOT) -> Iterator[Path]:
    """The pages that may have blocks."""
    yield root / "README.md"
    yield from sorted((root / "docs").rglob("*.md"))


def update(paths: Sequence[Path], *, check: bool, root: Path = ROOT) -> int:
    """Render pages, or only report which blocks are out of date; gives the exit code."""
    failed = False
    for path in paths:
        text = path.read_text("utf-8")
        try:
            fresh, stale = render(text)
        except ValueError as error:  # a RenderError, or a setting without docstring
            print(f"{path.relative_to(root)}: {error}", file=sys.stderr)
            failed = True
            continue
        for name in stale:
            state = "is out of date: run python -m benchmarks.render" if check else "rendered"
            stream = sys.stderr if check else sys.stdout
            print(f"{path.relative_to(root)}: block {name!r} {state}", file=stream)
        if stale and not check:
            path.write_text(fresh, "utf-8")
        failed = failed or (check and bool(stale))
    return int(failed)


def main() -> None:
    """Render all pages."""
    arguments = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    options = arguments.parse_args()
    raise SystemExit(update(list(pages()), check=options.check))


if __name__ == "__main__":
    main()

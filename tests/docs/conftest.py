"""The pages of the documentation: their fenced blocks, and their prose without these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

NOT_RUN = "<!-- not run: "
"""Starts the line above a Python block that is not meant to run, with the reason."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    line: int
    """Number of its first line in the page, from 1."""
    text: str
    run: bool
    """Whether it is meant to run."""


@dataclass(frozen=True)
class Page:
    """A page in Markdown."""

    path: Path

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        return re.sub(r"^ *```.*?^ *```", "", self.text, flags=re.DOTALL | re.MULTILINE)

    def blocks(self) -> Iterator[Block]:
        lines = self.text.split("\n")
        opened: int | None = None
        for number, line in enumerate(lines):
            if not line.lstrip().startswith("```"):
                continue
            if opened is None:
                opened = number
                continue
            above = next((text for text in reversed(lines[:opened]) if text.strip()), "")
            language = lines[opened].strip().removeprefix("```")
            text = "\n".join(lines[opened + 1 : number])
            yield Block(language, opened + 2, text, run=not above.startswith(NOT_RUN))
            opened = None
        assert opened is None, f"{self.name}: the block at line {opened} is not closed"

    def python(self) -> list[Block]:
        return [block for block in self.blocks() if block.language == "python"]

    def commands(self) -> Iterator[str]:
        """Each command of its shell blocks, on one line, without prompt and comment."""
        for block in self.blocks():
            if block.language not in ("sh", "console"):
                continue
            text = re.sub(r"\\\n\s*", "", block.text)
            for line in text.split("\n"):
                if block.language == "sh" or line.startswith("$ "):
                    yield re.sub(r"\s#\s.*", "", line.removeprefix("$ ")).strip()


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def pages() -> list[Page]:
    """All pages but the runtime's README, which ships in its wheel."""
    top = ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY", "examples/README")
    found = [ROOT / f"{name}.md" for name in top]
    return [Page(path) for path in (*found, *sorted((ROOT / "docs").rglob("*.md")))]


@pytest.fixture(scope="session")
def wheel_page() -> Page:
    """The runtime's README, which ships in its wheel."""
    return Page(ROOT / "runtime" / "README.md")


@pytest.fixture(scope="session")
def contract() -> Page:
    """The page on the model file."""
    return Page(ROOT / "docs" / "artifact.md")

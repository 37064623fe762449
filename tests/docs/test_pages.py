"""The pages against the project: links lead somewhere, names exist, nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import click
import pytest

import nin_edge
import nin_edge_runtime
from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge.network import count_parameters
from nin_edge.weights import WEIGHTS

if TYPE_CHECKING:
    from tests.docs.conftest import Page

_LINK = r"""(?:\]\(<?|<img [^>]*src=")([^)>\s"]+)"""


def _anchors(page: Page) -> set[str]:
    """What a link can name after #: the headings as GitHub turns them into identifiers."""
    headings = re.findall(r"^#+ (.+)$", page.prose, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def _relative_links(page: Page) -> list[str]:
    links = (unquote(link) for link in re.findall(_LINK, page.prose))
    return [link for link in links if not re.match(r"[a-z][a-z0-9+.-]*:", link)]


def test_relative_links_and_anchors_lead_somewhere(pages: list[Page]) -> None:
    known = {page.path: page for page in pages}
    broken = []
    for page in pages:
        for link in _relative_links(page):
            path, _, anchor = link.partition("#")
            linked = (page.path.parent / path).resolve() if path else page.path
            if not linked.exists() or (anchor and anchor not in _anchors(known[linked])):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_every_page_can_be_reached_from_the_readme(pages: list[Page], root: Path) -> None:
    known = {page.path: page for page in pages}
    reached, pending = set(), [root / "README.md"]
    while pending:
        path = pending.pop()
        if path not in known or path in reached:
            continue
        reached.add(path)
        links = (link.partition("#")[0] for link in _relative_links(known[path]))
        pending += [(path.parent / link).resolve() for link in links if link]
    assert sorted(page.name for page in pages if page.path not in reached) == []


def test_page_that_ships_in_the_wheel_has_no_relative_links(wheel_page: Page) -> None:
    assert _relative_links(wheel_page) == []


def test_make_targets_exist(pages: list[Page], root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in pages:
        named = {name for line in page.commands() for name in re.findall(r"^make ([a-z]+)", line)}
        named |= set(re.findall(r"`make ([a-z]+)", page.prose))
        assert named <= targets, f"{page.name} names make targets that do not exist"
        if page.name == "README.md":
            assert {"demo", "test"} <= named


def test_benchmarks_exist(pages: list[Page], root: Path) -> None:
    for page in pages:
        if page.name == "docs/research-log.md":  # it names commits, in which its commands exist
            continue
        for name in re.findall(r"python -m benchmarks\.(\w+)", page.text):
            assert (root / "benchmarks" / f"{name}.py").exists(), f"{page.name}: {name}"


def test_wheels_are_named_as_they_are_built(pages: list[Page], wheel_page: Page) -> None:
    assert nin_edge.__version__ == nin_edge_runtime.__version__
    versions = {
        version
        for page in (*pages, wheel_page)
        for version in re.findall(r"nin_edge(?:_runtime)?-([^-]+)-py3", page.text)
    }
    assert versions == {nin_edge.__version__}


def test_no_page_installs_our_names_from_an_index(pages: list[Page], wheel_page: Page) -> None:
    for page in (*pages, wheel_page):
        for line in page.commands():
            for arguments in re.findall(r"pip3? install (.*)", line):
                names = re.findall(r"(?<![\w./-])nin[-_]edge[\w.-]*", arguments)
                assert all(name.endswith(".whl") for name in names), f"{page.name}: {arguments}"


@pytest.mark.parametrize("name", WEIGHTS)
def test_figures_of_weights_that_ship_are_theirs(name: str, root: Path) -> None:
    checkpoint = Checkpoint.load(WEIGHTS[name])
    assert checkpoint.trained_scores.test is not None
    top1, size = checkpoint.trained_scores.test.top1, count_parameters(checkpoint.config)
    pages = ("README.md", "docs/results.md") if "cifar10" in name else ()
    for page in pages:
        text = (root / page).read_text("utf-8")
        row = rf"^\| `{name}`.*\| {size:,} \|.*\| {1 - top1:.2%} "
        assert re.search(row, text, re.MULTILINE), page
    card = (root / "docs" / "reference" / "weights.md").read_text("utf-8")
    tables = [
        [[cell.strip() for cell in line.split("|")] for line in part.splitlines()]
        for part in card.split("\n\n")
    ]
    table = next(table for table in tables if f"`{name}`" in table[0])
    column = table[0].index(f"`{name}`")
    cells = {row[1]: row[column] for row in table}
    assert cells["parameters"] == f"{size:,}"
    assert cells["top-1 accuracy, test (PyTorch, fp32)"] == f"{top1:.2%}"


def _options(command: click.Command) -> list[str]:
    """The long name of each of a command's options."""
    options = (item for item in command.params if isinstance(item, click.Option))
    return [max(option.opts, key=len) for option in options]


def test_every_verb_and_option_is_documented(pages: list[Page]) -> None:
    text = "\n".join(page.text for page in pages)

    def mentioned(name: str) -> bool:
        return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None

    context = click.Context(main)
    assert [option for option in _options(main) if not mentioned(option)] == []
    for verb in main.list_commands(context):
        command = main.get_command(context, verb)
        assert command is not None
        assert command.help
        assert mentioned(f"nin-edge {verb}")
        missing = [option for option in _options(command) if not mentioned(option)]
        assert not missing, f"options of {verb} that no page mentions: {', '.join(missing)}"

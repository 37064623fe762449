"""The Python blocks and the commands of the pages against the code."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import nin_edge
from nin_edge.cli import main
from nin_edge.score import score
from nin_edge_runtime import DEFAULT_MODEL

if TYPE_CHECKING:
    from tests.docs.conftest import Block, Page

_DRIVER = """
import contextlib, json, sys, traceback
failed = {}
for name, code in json.load(sys.stdin).items():
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(code, name, "exec"), {"__name__": "__main__"})
    except BaseException:
        failed[name] = traceback.format_exc()
json.dump(failed, sys.stdout)
"""
"""Runs each page as a program of its own, in one process: imports are most of the time."""

_RECIPE = "docs/reference/recipe.md"


def _joined(blocks: list[Block]) -> str:
    """The blocks of a page at the page's own line numbers, so that tracebacks point into it."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines)) + block.text.split("\n")
    return "\n".join(lines)


def test_python_blocks_of_every_page_run_in_their_order(
    pages: list[Page], wheel_page: Page, contract: Page, photo: Path, tmp_path: Path
) -> None:
    shutil.copy(photo, tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photos" / "cat.jpg")
    shutil.copy(DEFAULT_MODEL, tmp_path / "model.onnx")
    score(tmp_path / "photos", tmp_path / "scores")
    programs = {}
    for page in (*pages, wheel_page):
        blocks = [block for block in page.python() if block.run]
        if page.path == contract.path:
            blocks.pop()  # the reader, a program by itself, which test_contract.py runs
        if blocks:
            programs[page.name] = _joined(blocks)
    assert len(programs) >= 5
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _DRIVER],
        input=json.dumps(programs),
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {}, done.stderr[-3000:]


def test_calls_of_the_toolkit_have_the_arguments_of_its_functions(pages: list[Page]) -> None:
    checked = set()
    for page in pages:
        for block in page.python():
            for node in ast.walk(ast.parse(block.text, page.name)):
                if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("nin_edge."):
                    function = getattr(nin_edge, ast.unparse(node.func).removeprefix("nin_edge."))
                    keywords = {str(keyword.arg): None for keyword in node.keywords}
                    inspect.signature(function).bind(*node.args, **keywords)
                    checked.add(function.__name__)
    assert {"train", "evaluate"} <= checked


def test_commands_of_the_pages_have_the_options_of_their_verbs(pages: list[Page]) -> None:
    group = click.Context(main)
    verbs = {verb: main.get_command(group, verb) for verb in main.list_commands(group)}
    checked, settings = set(), set()
    for page in pages:
        for line in page.commands():
            match = re.search(r"(?:^|[ /])(?:nin-edge|-m nin_edge) (.+)", line)
            if match is None:
                continue
            words = shlex.split(match[1])
            while words[0].startswith("-"):
                words.pop(0)  # an option of the group
            command = verbs.get(words[0])
            assert command is not None, f"{page.name}: {line}"
            try:
                command.make_parser(click.Context(command)).parse_args(words[1:])
            except click.UsageError as error:
                raise AssertionError(f"{page.name}: {line}: {error.message}") from error
            settings |= set(re.findall(r"--set (\w+)=", line))
            checked.add(words[0])
    assert checked == set(verbs)
    described = (Path(__file__).parents[2] / _RECIPE).read_text("utf-8")
    assert [name for name in sorted(settings) if f"`{name}`" not in described] == []

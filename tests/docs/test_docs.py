"""The documents against the project: their code runs, their names exist, nothing is left out."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import nin_edge
import nin_edge_runtime
from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge.network import count_parameters
from nin_edge.weights import WEIGHTS
from nin_edge_export.graph import IR_VERSION, OPSET
from nin_edge_export.parity import TOLERANCES as EXPORT_TOLERANCES
from nin_edge_runtime import DEFAULT_MODEL, Classifier
from nin_edge_runtime.image import load_image
from nin_edge_runtime.model_file import FORMAT_VERSION
from nin_edge_runtime.verify import TOLERANCES

ROOT = Path(__file__).parent.parent.parent
MODELS = sorted((ROOT / "tests" / "data").glob("*.onnx"))

RUNNABLE = ["README.md", "runtime/README.md", "docs/artifact.md", "docs/device.md"]
"""Pages whose Python blocks are run."""

NOT_RUN = "<!-- not run"
"""Starts the line above a block of such a page that is not meant to run, with the reason."""

SCORE_TOLERANCE = 2e-3
"""The reader leaves crop and resize to the graph, which rounds otherwise than Pillow."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    line: int
    """Number of its first line in the page, from 1."""
    text: str
    run: bool


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    found = []
    lines = page.read_text("utf-8").split("\n")
    opened: int | None = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        above = next((text for text in reversed(lines[:opened]) if text.strip()), "")
        text = "\n".join(lines[opened + 1 : number])
        language = lines[opened].strip().removeprefix("```")
        found.append(Block(language, opened + 2, text, not above.startswith(NOT_RUN)))
        opened = None
    assert opened is None, f"{page}: the block at line {opened} is not closed"
    return found


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python" and block.run]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, photo: Path) -> Path:
    """What the documents' code finds where it runs: photo.jpg, photos/ and model.onnx."""
    shutil.copy(photo, tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photos" / "cat.jpg")
    shutil.copy(DEFAULT_MODEL, tmp_path / "model.onnx")
    return tmp_path


def run(code: str, folder: Path, name: str) -> str:
    """Run a script as `python NAME.py model.onnx photo.jpg`; its standard output."""
    script = folder / f"{name}.py"
    script.write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script, "model.onnx", "photo.jpg"],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", RUNNABLE)
def test_python_blocks_run_in_their_order(name: str, folder: Path) -> None:
    found = python_blocks(ROOT / name)
    assert found, f"{name} has no Python block to run"
    lines: list[str] = []
    for block in found:  # at the page's own line numbers, so that a traceback points into the page
        lines += [""] * (block.line - 1 - len(lines)) + block.text.split("\n")
    run("\n".join(lines), folder, name.replace("/", "-").removesuffix(".md"))


def test_reader_gives_the_classifiers_answer(folder: Path) -> None:
    reader = python_blocks(ROOT / "docs" / "artifact.md")[-1]
    printed = run(reader.text, folder, "reader").splitlines()
    expected = Classifier()(folder / "photo.jpg").top(5)
    assert [line.split(" ", 1)[1] for line in printed] == [label for label, _ in expected]
    for line, (_, score) in zip(printed, expected, strict=True):
        assert float(line.split(" ", 1)[0]) == pytest.approx(score, abs=SCORE_TOLERANCE)


def test_reader_is_twenty_lines_of_onnxruntime_numpy_pillow_and_json() -> None:
    reader = python_blocks(ROOT / "docs" / "artifact.md")[-1].text
    assert len([line for line in reader.split("\n") if line]) <= 20
    imported = set()
    for node in ast.walk(ast.parse(reader)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}


def test_reader_refuses_a_file_that_does_not_resize(folder: Path) -> None:
    shutil.copy(ROOT / "tests" / "data" / "none.fp32.onnx", folder / "model.onnx")
    reader = python_blocks(ROOT / "docs" / "artifact.md")[-1]
    with pytest.raises(AssertionError, match=r"model\.onnx: its graph does not crop and resize"):
        run(reader.text, folder, "reader")


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_preprocessing_of_the_page_is_the_runtimes(
    model: Path, photo: Path, rng: np.random.Generator
) -> None:
    (block,) = (
        block
        for block in python_blocks(ROOT / "docs" / "artifact.md")
        if "def prepared" in block.text
    )
    names: dict[str, Any] = {}
    exec(block.text, names)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    steps = json.loads(metadata["nin_edge.preprocessing"])
    classify = Classifier(model)
    for pixels in (load_image(photo), rng.integers(0, 256, (31, 20, 3), dtype=np.uint8)):
        fed = names["prepared"](Image.fromarray(pixels), steps)
        probabilities, maps = session.run(["probabilities", "class_maps"], {"image": fed})
        assert np.array_equal(probabilities[0], classify(pixels).probabilities)
        logits = maps.mean((2, 3), dtype=np.float64)[0] / json.loads(
            metadata["nin_edge.temperature"]
        )
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert np.allclose(softmax, probabilities[0], rtol=0, atol=1e-6)


def _fields(value: Any) -> Iterator[str]:
    """Names of the fields of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _fields(inner)


@pytest.mark.parametrize("model", [*MODELS, DEFAULT_MODEL], ids=lambda path: path.stem)
def test_every_metadata_key_and_field_is_described(model: Path) -> None:
    page = prose(ROOT / "docs" / "artifact.md")
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    assert metadata
    for key, text in metadata.items():
        assert f"| `{key}` |" in page
        for name in _fields(json.loads(text)):
            assert f"`{name}`" in page, f"the field {name} of {key}"


def test_metadata_keys_that_are_described_exist() -> None:
    described = re.findall(
        r"^\| `(nin_edge\.\w+)` \|", prose(ROOT / "docs" / "artifact.md"), re.MULTILINE
    )
    metadata = {entry.key for entry in onnx.load(MODELS[0]).metadata_props}
    assert sorted(described) == sorted(metadata)


@pytest.mark.parametrize("name", WEIGHTS)
def test_figures_of_weights_that_ship_are_theirs(name: str) -> None:
    checkpoint = Checkpoint.load(WEIGHTS[name])
    top1 = checkpoint.metrics["test_top1"]
    about = rf"^\| `{name}`.* {count_parameters(checkpoint.config):,} .*"
    for page, figure in (
        ("README.md", f"{1 - top1:.2%}"),
        ("docs/results.md", f"{1 - top1:.2%}"),
        ("docs/training.md", f"{top1:.2%}"),
    ):
        text = (ROOT / page).read_text()
        assert re.search(rf"{about}\| {figure} \|", text, re.MULTILINE), page


def test_numbers_of_the_contract_are_the_codes() -> None:
    page = prose(ROOT / "docs" / "artifact.md")
    tolerances = dict(re.findall(r"^\| `(\w+)` \| ([\d.e-]+) \|$", page, re.MULTILINE))
    assert {name: float(value) for name, value in tolerances.items()} == TOLERANCES
    assert f"format version {FORMAT_VERSION}" in page
    assert f"opset {OPSET}, `ir_version` {IR_VERSION}" in " ".join(page.split())
    found = re.search(r"([\d.e-]+) in fp32, ([\d.e-]+) in fp16", " ".join(page.split()))
    assert found
    assert [float(value) for value in found.groups()] == [
        EXPORT_TOLERANCES["fp32"],
        EXPORT_TOLERANCES["fp16"],
    ]


def _verbs() -> list[str]:
    return main.list_commands(click.Context(main))


def _options(command: click.Command) -> list[str]:
    """The long name of each of a command's options."""
    return [
        max(parameter.opts, key=len)
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]


def _mentioned(name: str) -> bool:
    text = "\n".join(page.read_text("utf-8") for page in pages())
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


@pytest.mark.parametrize("verb", _verbs())
def test_every_verb_and_option_is_documented(verb: str) -> None:
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    assert command.help
    assert _mentioned(f"nin-edge {verb}")
    missing = [option for option in _options(command) if not _mentioned(option)]
    assert not missing, f"options of {verb} that no page mentions: {', '.join(missing)}"


def test_every_option_of_the_group_is_documented() -> None:
    missing = [option for option in _options(main) if not _mentioned(option)]
    assert not missing, f"options of nin-edge that no page mentions: {', '.join(missing)}"


def _anchors(page: Path) -> set[str]:
    """What a link can name after #: the headings as GitHub turns them into identifiers."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(<?([^)>\s]+)", prose(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in _anchors(linked), f"{page.name} links to {target}"


def test_page_that_ships_in_the_wheel_has_no_relative_links() -> None:
    targets = re.findall(r"\]\(([^)\s]+)", prose(ROOT / "runtime" / "README.md"))
    assert all(target.startswith("https://") for target in targets)


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_make_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        target
        for block in blocks(page)
        for target in re.findall(r"^(?:\$ )?make ([a-z]+)", block.text, re.MULTILINE)
    }
    named |= set(re.findall(r"`make ([a-z]+)", prose(page)))
    assert named <= targets, f"{page.name} names make targets that do not exist"
    if page.name == "README.md":
        assert {"demo", "test"} <= named


@pytest.mark.parametrize("name", ["docs/device.md", "runtime/README.md"])
def test_wheels_are_named_as_they_are_built(name: str) -> None:
    assert nin_edge.__version__ == nin_edge_runtime.__version__
    versions = set(
        re.findall(r"nin_edge(?:_runtime)?-([^-]+)-py3", (ROOT / name).read_text("utf-8"))
    )
    assert versions == {nin_edge.__version__}


@pytest.mark.parametrize(
    "page", [*pages(), ROOT / "runtime" / "README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_page_installs_our_names_from_an_index(page: Path) -> None:
    for block in blocks(page):
        command = block.text.replace("\\\n", " ")
        for arguments in re.findall(r"pip3? install (.*)", command):
            names = re.findall(r"(?<![\w./-])nin[-_]edge[\w.-]*", arguments)
            assert all(name.endswith(".whl") for name in names), arguments

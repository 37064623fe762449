"""Tables and reference pages that are generated, and the check that they are up to date."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import _reference, _result, render
from benchmarks._tables import TABLES
from nin_edge.training.recipe import Recipe

MACHINE = {
    "processor": "Quick 9",
    "instruction_sets": ["AVX2", "AMX int8"],
    "cpus": 2,
    "system": "Linux x86_64",
    "python": "3.11.7",
    "versions": {"onnxruntime": "1.32.0"},
}
ROWS = [
    {
        "weights": "nin-cifar10",
        "precision": precision,
        "parameters": 968_394,
        "multiply_adds": 222_500_000,
        "bytes": size,
        "data": "CIFAR-10",
        "test_images": 10_000,
        "test_error": 1 - top1,
        "top1_agreement": agreement,
        "latency_ms": latency,
        "latency_ratio": latency / 3.0,
    }
    for precision, size, top1, agreement, latency in (
        ("fp32", 4_000_000, 0.9122, 1.0, 3.0),
        ("fp16", 2_000_000, 0.9121, 0.9997, 3.0),
        ("int8", 1_000_000, 0.91, 0.9936, 1.5),
    )
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with the results of one benchmark."""
    stored = {
        "command": "python -m benchmarks.pareto cifar10-jpeg.tar.xz",
        "commit": "0123456789",
        "dirty": False,
        "date": "2026-11-27",
        "machine": MACHINE,
        "rounds": "60 rounds of 10 calls",
        "rows": ROWS,
        "notes": ["Nothing else ran."],
    }
    (tmp_path / "pareto.json").write_text(json.dumps(stored), "utf-8")
    return tmp_path


def test_a_table_has_its_rows_notes_and_caption(results: Path) -> None:
    lines = render.block("precisions", results).split("\n\n")
    assert lines[0].splitlines() == [
        "| precision | bytes | test error | top-1 agreement with PyTorch | latency | ratio |",
        "|---|---|---|---|---|---|",
        "| fp32 | 4,000,000 (1.00) | 8.78% | 100.00% | 3.00 ms | 1.00 |",
        "| fp16 | 2,000,000 (0.50) | 8.79% | 99.97% | 3.00 ms | 1.00 |",
        "| int8 | 1,000,000 (0.25) | 9.00% | 99.36% | 1.50 ms | 0.50 |",
    ]
    assert lines[1] == "- Nothing else ran."
    caption = " ".join(lines[2].split())
    assert caption.startswith("`nin-cifar10`. Test error on 10,000 images of CIFAR-10")
    assert caption.endswith(
        "`python -m benchmarks.pareto cifar10-jpeg.tar.xz`: Quick 9 (AVX2, AMX int8), 2 CPUs, "
        "Linux x86_64; Python 3.11.7, onnxruntime 1.32.0; 60 rounds of 10 calls."
    )
    assert max(map(len, lines[2].splitlines())) <= 120


def test_precisions_of_a_network_are_joined_into_one_line(results: Path) -> None:
    lines = render.block("readme-networks", results).splitlines()
    assert lines[2] == "| `nin-cifar10` | 968,394 | 1,000 kB | 8.78% / 9.00% | 3.00 / 1.50 ms |"
    assert len(TABLES["readme-networks"].columns) <= 5  # it must fit the README's first screen


def test_a_value_that_was_not_measured_leaves_its_cell_empty() -> None:
    row = {"measure": "memory", "unit": "MB", "default": 15.3, "no_arena": 0.5, "spin": None}
    result = _result.Result(
        "c", "", False, "", _result.Environment("p", (), 1, "s", "3", {}), "once", (row,)
    )
    assert "| memory | 15.3 MB | 0.5 |  |" in TABLES["sessions"].markdown(result)


def test_an_engine_has_the_worst_of_its_graphs_in_each_precision() -> None:
    rows = [
        {
            "engine": "Quick 9",
            "embedded": "none",
            "precision": precision,
            "max_difference": difference,
            "runs": runs,
        }
        for precision, difference, runs in (
            *(("fp32", 2e-7, "yes"), ("fp32", 5e-7, "yes")),
            *(("fp16", None, "fails"), ("fp16", 1e-3, "yes")),
            *(("int8", 0.56, "WRONG"), ("int8", None, "fails")),
        )
    ]
    machine = _result.Environment("p", (), 1, "s", "3", {})
    result = _result.Result("c", "", False, "", machine, "once", tuple(rows))
    shown = TABLES["engines"].markdown(result)
    assert "| Quick 9 | `none` | 5e-07 | fails | **wrong: 0.56** |" in shown


def test_blocks_are_filled_and_all_else_is_kept() -> None:
    page = (
        "# T\n<!-- rendered: a -->\nold\n<!-- end -->\ntext\n<!-- rendered: b -->\n<!-- end -->\n"
    )
    fresh, stale = render.render(page, {"a": "new", "b": "x\ny"}.__getitem__)
    assert stale == ["a", "b"]
    assert fresh == (
        "# T\n<!-- rendered: a -->\nnew\n<!-- end -->\ntext\n"
        "<!-- rendered: b -->\nx\ny\n<!-- end -->\n"
    )
    assert render.render(fresh, {"a": "new", "b": "x\ny"}.__getitem__) == (fresh, [])


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- rendered: cli -->\n", "'cli' has no <!-- end -->"),
        ("a\n<!-- end -->\n", "line 2: <!-- end --> without its counterpart"),
        ("<!-- rendered: cli -->\n<!-- rendered: cli -->\n", "line 2: .* without its counterpart"),
        ("<!-- rendered: nothing -->\n<!-- end -->\n", "no block 'nothing': expected one of .*cli"),
    ],
)
def test_a_page_that_cannot_be_rendered_is_an_error(page: str, message: str) -> None:
    with pytest.raises(render.RenderError, match=message):
        render.render(page)


def test_missing_results_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(render.RenderError, match=r"run python -m benchmarks\.sessions$"):
        render.block("sessions", tmp_path)


def test_check_reports_a_stale_block_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- rendered: recipe -->\nold\n<!-- end -->\n", "utf-8")
    assert render.update([page], check=True, root=tmp_path) == 1
    assert "page.md: block 'recipe' is out of date" in capsys.readouterr().err
    assert "old" in page.read_text("utf-8")
    assert render.update([page], check=False, root=tmp_path) == 0
    assert "| `epochs` | int | 10 |" in page.read_text("utf-8")
    assert render.update([page], check=True, root=tmp_path) == 0


def test_errors_of_all_pages_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("<!-- rendered: nothing -->\n<!-- end -->\n", "utf-8")
    pages = [tmp_path / "a.md", tmp_path / "b.md"]
    assert render.update(pages, check=False, root=tmp_path) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["a.md", "b.md"]


def test_command_line_reference_has_every_verb_and_exit_code() -> None:
    text = _reference.cli()
    for verb in ("train", "eval", "export", "run", "verify", "bench", "info", "doctor"):
        assert f"## `nin-edge {verb}`\n\n```text\nUsage: nin-edge {verb} " in text
    assert "-h, --help" in text
    assert "| 4 | the requested provider is unknown or not active |" in text


def test_recipe_reference_describes_every_setting() -> None:
    lines = _reference.recipe().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [field.name for field in fields(Recipe)]
    assert all(re.fullmatch(r"\| `\w+` \| (int|float|bool) \|.*\. \|", line) for line in lines)
    assert "| `batch_size` | int | 250, `nin` 128, `nin-imagenet` 64 | 2 to 65,536 | " in lines[1]
    (flip,) = (line for line in lines if "`flip`" in line)
    assert flip.startswith("| `flip` | bool | true |  | ")


def test_an_undocumented_setting_is_an_error() -> None:
    source = "class Recipe:\n    epochs: int = 3\n\n    def last(self) -> None: ...\n"
    with pytest.raises(ValueError, match=r"Recipe\.epochs has no docstring"):
        _reference.field_docstrings(source, "Recipe")


def test_an_answer_is_written_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "made" / "x.json"
    monkeypatch.setattr(
        sys,
        "argv",
        ["x", "/home/me/data.tar", "--output", str(output), "--root", "/home/me", "-n", "3"],
    )
    rows = [{"call": "a", "ms": 1.25, "each": [1.0, 2.0]}, {"call": "b", "ms": None, "each": []}]
    _result.answer(
        "x", rows, rounds="3 rounds", packages=("numpy",), notes=["Fast."], output=output
    )
    result = _result.read(output)
    assert result.command == "python -m benchmarks.x data.tar -n 3"
    assert list(result.rows) == rows
    assert (result.rounds, result.notes) == ("3 rounds", ("Fast.",))
    assert set(result.machine.versions) == {"numpy"}
    assert capsys.readouterr().out.splitlines() == [
        "python -m benchmarks.x data.tar -n 3: 3 rounds",
        "call  ms    each",
        "a     1.25  1, 2",
        "b     -",
        "Fast.",
    ]


def test_render_starts_without_numpy_and_torch() -> None:
    script = (
        "import sys; from benchmarks.render import block; block('cli'), block('recipe');"
        "print([name for name in ('numpy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=render.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"

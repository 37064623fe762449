"""`nin-edge compare`: what it prints, its exit codes, the page, and every bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nin_edge.cli import main
from nin_edge.comparison import comparison

GREY = Path(__file__).parents[2] / "data" / "grey.fp32.onnx"


WITHOUT_TORCH = """
import sys

for name in ("torch", "safetensors", "onnx", "matplotlib"):
    sys.modules[name] = None
from nin_edge.cli import main
from nin_edge.comparison import comparison

comparison.SECONDS = 0.0
main()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured for one round, not for 2 s."""
    monkeypatch.setattr(comparison, "SECONDS", 0.0)


def run(verb: str, *arguments: object) -> Result:
    return CliRunner().invoke(main, [verb, *map(str, arguments)])


def figures(verb: str, *arguments: object) -> dict[str, Any]:
    result = run(verb, *arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("split", [(), ("--split", "all")])
def test_accuracies_are_those_of_eval(data: Path, tiny_model: Path, split: tuple[str, ...]) -> None:
    answer = figures("compare", tiny_model, GREY, data, *split)
    scores = [figures("eval", model, data, *split) for model in (tiny_model, GREY)]
    assert [answer["accuracy"][name] for name in ("old", "new")] == [
        each["top1"] for each in scores
    ]
    assert {answer["images"], *(each["images"] for each in scores)} == {30 if split else 6}
    assert answer["split"] == scores[0]["split"]
    assert answer["verdict"] == {"passed": True, "broken": []}
    assert answer["changed"] == len(answer["changes"])
    assert answer["old"]["bytes"] == tiny_model.stat().st_size
    assert answer["new"]["latency"]["ratio"] > 0


def test_text_has_the_figures_and_what_changed(data: Path, tiny_model: Path) -> None:
    answer = figures("compare", tiny_model, GREY, data)
    result = run("compare", tiny_model, GREY, data, "--min-agreement", 0)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"agreement {answer['agreement']:.2%} (95% interval ")
    assert lines[0].endswith("6 images of data (test)")
    assert lines[1].startswith(f"accuracy {answer['accuracy']['old']:.2%} (")
    assert " -> 17,250 bytes, fp32 -> fp32" in lines[2]
    assert f"{answer['changed']:>7,}  square -> circle" in lines
    assert lines[-1] == "within the limits"
    assert "no splits in the data" in result.stderr  # as eval says


def test_broken_limits_end_with_3_after_all_figures(
    data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    page = tmp_path / "changes.html"
    limits = ("--min-agreement", 0.99, "--html", page)
    result = run("compare", tiny_model, GREY, data, *limits, "--json")
    assert result.exit_code == 3
    assert isinstance(result.exception, SystemExit)
    answer = json.loads(result.stdout)
    assert not answer["verdict"]["passed"]
    (broken,) = answer["verdict"]["broken"]
    assert re.fullmatch(r"agreement is .*%, expected at least 99\.00%", broken)
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert str(GREY) in error
    assert broken in error
    assert broken in page.read_text("utf-8")


def test_a_device_without_torch_compares_and_writes_the_page(
    data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    page = tmp_path / "changes.html"
    arguments = ["compare", tiny_model, GREY, data, "--json", "--html", page]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = figures("compare", tiny_model, GREY, data)
    assert json.loads(done.stdout)["changes"] == expected["changes"]
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")


def test_photos_without_labels_are_compared_by_agreement_alone(
    folder: Path, tiny_model: Path, failed: Callable[..., None]
) -> None:
    (folder / "bad\x1b.jpg").write_bytes(b"no image")
    result = run("compare", tiny_model, GREY, folder, "--json")
    assert result.exit_code == 0, result.output
    assert "no folder in it has a label as its name" in result.stderr
    assert r"left out bad\x1b.jpg: not an image" in result.stderr
    answer = json.loads(result.stdout)
    assert (answer["images"], answer["split"], answer["accuracy"]) == (3, None, None)
    assert len(answer["unreadable"]) == 1
    failed(run("compare", tiny_model, GREY, folder, "--max-drop", 1), 1, "photos: has no labels")


def test_an_unknown_class_among_known_ones_is_an_error(
    data: Path, tiny_model: Path, failed: Callable[..., None]
) -> None:
    shutil.copytree(data / "circle", data / "hexagon")
    failed(run("compare", tiny_model, GREY, data), 1, "does not know the label hexagon")


def test_bad_arguments_are_one_line(
    data: Path, tiny_model: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(tiny_model.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    for arguments, code, words in (
        ((tiny_model, damaged, data), 1, (str(damaged),)),
        ((tmp_path / "no.onnx", GREY, data), 1, ("no.onnx",)),
        ((tiny_model, GREY, tmp_path / "nowhere"), 1, ("nowhere",)),
        ((tiny_model, GREY, tmp_path / "empty"), 1, ("empty: a folder with no image files",)),
        ((tiny_model, GREY, data, "--html", "page.txt"), 2, ("page.txt", ".html")),
        ((tiny_model, GREY, data, "--html", tmp_path / "no" / "a.html"), 1, ("not a folder",)),
        ((tiny_model, GREY, data, "--min-agreement", "95"), 2, ("0<=x<=1",)),
        ((tiny_model, GREY, data, "--split", "validation"), 1, ("no validation split",)),
    ):
        failed(run("compare", *arguments), code, *words)

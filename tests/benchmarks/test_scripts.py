"""Every script imports what the project has, and says what it answers."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from benchmarks import all as all_benchmarks
from benchmarks._result import ROOT
from benchmarks._tables import TABLES

SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))
WITHOUT_OPTIONS = "make_cifar_jpeg"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_starts_with_its_question_and_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = import_module(f"benchmarks.{name}")
    assert script.__doc__ is not None
    assert f"    python -m benchmarks.{name}" in script.__doc__
    if name == WITHOUT_OPTIONS:
        return
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 0
    assert script.__doc__.splitlines()[0] in capsys.readouterr().out


def test_every_table_has_a_script_that_all_runs_or_names() -> None:
    made = {table.name for table in TABLES.values()}
    assert made <= set(SCRIPTS)
    # Hours, a memory limit, other data, an environment of its own, an emulator, root.
    by_hand = {
        *("ablation", "larger_than_memory", "peers", "engines", "photos"),
        *("load", "machines", "score"),
        *("default_model", "rounding", "shapes", "unseen", "arm", "arm_images"),
    }
    assert made - by_hand == set(all_benchmarks.commands("DATA", ["PHOTOS"]))

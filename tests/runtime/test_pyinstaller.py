"""PyInstaller's hook: it is announced, found, and collects the default model."""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import nin_edge_runtime
from nin_edge_runtime import DEFAULT_MODEL


def test_hook_collects_the_files_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    project = Path(__file__).parents[2] / "runtime" / "pyproject.toml"
    if not project.is_file():
        pytest.skip("the sources are not here")
    line = next(line for line in project.read_text().splitlines() if line.startswith("hook-dirs"))
    module, function = line.partition("=")[2].strip(' "').split(":")
    (folder,) = getattr(import_module(module), function)()

    hooks = SimpleNamespace(collect_data_files=lambda package: [(f"all of {package}", package)])
    for name in ("PyInstaller", "PyInstaller.utils", "PyInstaller.utils.hooks"):
        monkeypatch.setitem(sys.modules, name, hooks)  # type: ignore[misc]
    collected = runpy.run_path(str(Path(folder) / f"hook-{nin_edge_runtime.__name__}.py"))
    assert collected["datas"] == [("all of nin_edge_runtime", "nin_edge_runtime")]
    assert DEFAULT_MODEL.is_relative_to(Path(nin_edge_runtime.__file__).parent)

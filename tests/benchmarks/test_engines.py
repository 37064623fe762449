"""The comparison of other engines: its rows, with the engine that the tests have."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import _engines, engines

DATA = Path(__file__).parents[1] / "data"
GRAPH = {"embedded": "none", "opset": 13, "batch": 1, "precision": "fp32"}


class _Dies:
    """What ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def _ours() -> _engines.Engine:
    return _engines.ENGINES[0]


def test_every_input_is_compared_in_a_process_and_errors_are_reasons(
    tmp_path: Path,
) -> None:
    names = ("format-1", "normalize", "none", "grey-none")
    paths = [DATA / f"{name}.fp32.onnx" for name in names]
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    paths.insert(1, tmp_path / "broken.onnx")
    found = list(engines.measure(_ours(), paths, tmp_path))
    assert len(found) == 5
    broken = found.pop(1)
    assert isinstance(broken, str)
    assert broken.startswith("ModelFileError: ")
    for difference in found:
        row = engines.row(_ours(), GRAPH, difference)
        assert row["runs"] == "yes"
        assert isinstance(row["max_difference"], float)
        assert 0 < row["max_difference"] < 1e-5
    row = engines.row(_ours(), GRAPH, broken)
    assert (row["runs"], row["reason"]) == ("fails", broken)


def test_an_engine_that_ends_the_process_does_not_end_the_comparison(tmp_path: Path) -> None:
    engine = replace(_ours(), load=_Dies())
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    assert list(engines.measure(engine, paths, tmp_path)) == ["its process ends with code 3"] * 2


def test_probabilities_beyond_the_tolerance_are_wrong() -> None:
    wrong, right = (engines.row(_ours(), GRAPH, (0.0, own)) for own in (2e-4, 5e-5))
    assert (wrong["runs"], right["runs"]) == ("WRONG", "yes")


def test_a_missing_package_is_named() -> None:
    absent = replace(_ours(), packages=(_engines.Package("no-such-package", "here"),))
    assert absent.missing() == "no-such-package is not installed in build/here"
    assert _ours().missing() is None

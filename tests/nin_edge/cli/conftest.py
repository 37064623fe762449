"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from nin_edge_runtime.golden import golden_image

GOLDEN = ("circle", "square", "étoile")  # classes of the tiny model


@pytest.fixture
def data(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """A folder of the tiny model's three classes: 10 images of each, of which 2 are the test."""
    return make_folder(tmp_path / "data", dict.fromkeys(GOLDEN, 10))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three photos, one of them in a folder inside."""
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    for name, seed in (("a.png", 1), ("b.jpg", 2), ("inside/a.png", 3)):
        Image.fromarray(golden_image(seed, 60, 80)).save(folder / name)
    return folder


@pytest.fixture
def failed() -> Callable[..., None]:
    """A check of a command: it failed, with one clear line and nothing on stdout."""

    def check(result: Result, code: int, *words: str) -> None:
        assert result.exit_code == code, result.output
        assert isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, result.stderr
        assert result.stderr.splitlines()[-1] == errors[0]
        assert "Traceback" not in result.stderr
        for word in words:
            assert word in errors[0]

    return check


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports measure latency for the fewest rounds, not for 2 s of CPU time each."""
    from nin_edge_export.report import measurement

    monkeypatch.setattr(measurement, "SECONDS", 0.0)

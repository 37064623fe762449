"""`nin-edge verify`: golden samples that are reproduced, and samples that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nin_edge.cli import main
from nin_edge_runtime import DEFAULT_MODEL


def _verify(model: Path) -> Result:
    return CliRunner().invoke(main, ["verify", str(model)])


def test_verify_passes_on_the_default_model() -> None:
    result = _verify(DEFAULT_MODEL)
    assert result.exit_code == 0
    assert "8 golden samples" in result.stdout


def test_verify_exits_with_3_where_the_answers_are_others(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nin_edge_runtime import verify

    draw = verify.golden_image
    # Other images have the effect of a machine with other results.
    monkeypatch.setattr(verify, "golden_image", lambda s, h, w: draw(s + 1, h, w))
    result = _verify(tiny_model)
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert "golden samples differ" in line

"""`nin-edge info`: a model's metadata as text and as JSON."""

from __future__ import annotations

import json

import numpy as np
from click.testing import CliRunner

from nin_edge.cli import main
from nin_edge_runtime import DEFAULT_MODEL


def _info(*options: str) -> str:
    return CliRunner().invoke(main, ["info", str(DEFAULT_MODEL), *options]).stdout


def test_info_shows_what_the_file_is() -> None:
    text = _info()
    assert "airplane, automobile, bird" in text
    assert "CIFAR-10 (JPEG q75)" in text
    assert "global average pooling of the class maps" in text
    assert (
        "mlpconv blocks, channels [[192, 160, 96], [192, 192, 192], [192, 192]] at width 1" in text
    )
    values = json.loads(_info("--json"))
    assert values["bytes"] == DEFAULT_MODEL.stat().st_size
    assert len(values["labels"]) == 10
    assert np.isclose(sum(values["golden"]["file"][0]), 1, atol=1e-5)

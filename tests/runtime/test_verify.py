"""Replaying golden samples: what passes, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nin_edge_runtime import Classifier, GateError, read_model
from nin_edge_runtime.verify import TOLERANCES, replay


@pytest.mark.parametrize("name", ["format-1", "normalize", "none", "grey", "grey-none"])
def test_replay_passes_for_every_way_of_embedding(tiny_model: Path, name: str) -> None:
    classify = Classifier(tiny_model.with_name(f"{name}.fp32.onnx"), provider="cpu", threads=1)
    result = replay(classify)
    assert result.count == len(classify.info.golden.images) == 8
    assert result.difference <= result.tolerance == TOLERANCES["fp32"]


@pytest.fixture
def stored(tiny_bytes: bytes) -> dict[str, object]:
    """The golden samples of the tiny model, as its JSON has them."""
    golden = read_model(tiny_bytes)[1].golden
    names = ("formula", "images", "pytorch", "file")
    return json.loads(json.dumps({name: getattr(golden, name) for name in names}))


@pytest.mark.parametrize(("factor", "passes"), [(0.5, True), (2, False)])
def test_replay_fails_where_the_stored_answers_differ_by_more_than_the_tolerance(
    tiny_bytes: bytes, forge: Callable[..., bytes], stored: dict, factor: float, passes: bool
) -> None:
    stored["file"][5][1] += factor * TOLERANCES["fp32"]
    forged = forge(tiny_bytes, {"golden": json.dumps(stored)})
    classify = Classifier(forged, provider="cpu", threads=1)
    if passes:
        replay(classify)
    else:
        with pytest.raises(GateError, match="golden samples differ"):
            replay(classify)


@pytest.mark.parametrize("sample", range(8))
def test_an_answer_that_is_no_number_fails_wherever_it_stands(
    tiny_model: Path, sample: int
) -> None:
    classify = Classifier(tiny_model, provider="cpu", threads=1)
    rows = [list(row) for row in classify.info.golden.file]
    rows[sample][1] = float("nan")
    golden = replace(classify.info.golden, file=tuple(map(tuple, rows)))
    classify.info = replace(classify.info, golden=golden)
    with pytest.raises(GateError):
        replay(classify)

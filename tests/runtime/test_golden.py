from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace as with_changes
from pathlib import Path

import numpy as np
import pytest

from nin_edge_runtime import Classifier, GateError, read_model
from nin_edge_runtime.golden import TOLERANCES, golden_image, replay


@pytest.mark.parametrize(
    ("seed", "height", "width", "digest"),
    [
        (0, 16, 16, "5595e1ed119e0b35e901572b0b000566130e3011ccbdc08dd84bf75964832fb6"),
        (7, 1, 1, "cf3d3bdf889d70c67c34ad02f9062ae82d6bf6dd3345fe6c5349e4c232cfdf6a"),
        (12345, 48, 80, "a2066b3285b9322109fc31d0b9621448a8e4a212a44ba9de4bb64c01e233f731"),
        (2**31 - 1, 33, 20, "e0ff950dac87c6ab06a50963f280bfd701c302a332960a2cd1e9cf52e834000d"),
    ],
)
def test_the_formula_draws_the_same_bytes_for_ever(
    seed: int, height: int, width: int, digest: str
) -> None:
    image = golden_image(seed, height, width)
    assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
    assert hashlib.sha256(image.tobytes()).hexdigest() == digest


def test_images_of_neighbouring_seeds_differ() -> None:
    assert len({golden_image(seed, 16, 16).tobytes() for seed in range(50)}) == 50


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
    golden = with_changes(classify.info.golden, file=tuple(map(tuple, rows)))
    classify.info = with_changes(classify.info, golden=golden)
    with pytest.raises(GateError):
        replay(classify)

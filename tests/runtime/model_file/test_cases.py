"""The values that every reader of the format takes or refuses (`tests/data/metadata_cases.json`).

The tests of nin-edge-js and of the JSON Schema go through the same cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nin_edge_runtime import ModelFileError, read_model

CASES = json.loads(
    (Path(__file__).parents[2] / "data" / "metadata_cases.json").read_text("utf-8")
)


@pytest.mark.parametrize("taken", [True, False])
def test_the_runtime_takes_and_refuses_what_every_reader_does(
    tiny_bytes: bytes, forge: Callable[..., bytes], taken: bool
) -> None:
    wrong: list[dict[str, Any]] = []
    for case in CASES:
        if case["taken"] is not taken:
            continue
        try:
            read_model(forge(tiny_bytes, {case["key"]: case["json"]}))
        except ModelFileError as error:
            assert "\n" not in str(error)
            if taken:
                wrong.append(case)
        else:
            if not taken:
                wrong.append(case)
    assert not wrong

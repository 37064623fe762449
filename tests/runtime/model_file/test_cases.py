"""The values that every reader of the format takes or refuses (`tests/data/metadata_cases.json`).

The tests of nin-edge-js and of the JSON Schema go through the same cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from nin_edge_runtime import ModelFileError, read_model

CASES = json.loads((Path(__file__).parents[2] / "data" / "metadata_cases.json").read_text("utf-8"))


def refusal(data: bytes) -> str | None:
    """The runtime's message where it refuses a file."""
    try:
        read_model(data)
    except ModelFileError as error:
        return str(error)
    return None


def test_the_runtime_takes_and_refuses_what_every_reader_does(
    tiny_bytes: bytes, forge: Callable[..., bytes]
) -> None:
    for case in CASES:
        message = refusal(forge(tiny_bytes, {case["key"]: case["json"]}))
        assert (message is None) is case["taken"], case
        assert "\n" not in (message or ""), case

"""The JSON Schema of the metadata against all committed files and against the readers' cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from jsonschema import Draft202012Validator

from benchmarks._schema import SCHEMA
from nin_edge_runtime import DEFAULT_MODEL
from nin_edge_runtime.model_file import EMBEDDED, FORMAT_VERSION, PRECISIONS, strict_json
from nin_edge_runtime.model_file.limits import (
    MAX_CLASSES,
    MAX_GOLDEN,
    MAX_GOLDEN_SCALE,
    MAX_LABEL,
    MAX_SIDE,
    MIN_SIDE,
)

DATA = Path(__file__).parents[1] / "data"
FILES = [*sorted(DATA.glob("*.onnx")), DEFAULT_MODEL]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def metadata(path: Path) -> dict[str, Any]:
    return {
        entry.key: json.loads(entry.value)
        for entry in onnx.load(path).metadata_props
        if entry.key.startswith("nin_edge.")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_file_fits_the_schema(path: Path, validator: Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(metadata(path))] == []


def test_the_schema_takes_and_refuses_what_every_reader_does(
    tiny_model: Path, validator: Draft202012Validator
) -> None:
    whole, wrong = metadata(tiny_model), []
    for case in json.loads((DATA / "metadata_cases.json").read_text("utf-8")):
        try:
            value = strict_json.loads(case["json"])
        except ValueError:  # not strict JSON, which a schema does not see
            assert not case["taken"]
            continue
        # "schema": refused by a rule that the page has in words.
        expected = case["taken"] or case.get("schema", False)
        if validator.is_valid({**whole, f"nin_edge.{case['key']}": value}) is not expected:
            wrong.append(case)
    assert not wrong


def test_every_key_but_one_is_required(tiny_model: Path, validator: Draft202012Validator) -> None:
    whole = metadata(tiny_model)
    assert set(validator.schema["properties"]) - set(validator.schema["required"]) == {
        "nin_edge.engines"
    }
    for key in validator.schema["required"]:
        assert not validator.is_valid({other: whole[other] for other in whole if other != key})


def test_limits_of_the_schema_are_the_runtimes(validator: Draft202012Validator) -> None:
    keys, parts = validator.schema["properties"], validator.schema["$defs"]
    labels, steps = keys["nin_edge.labels"], parts["preprocessing"]["properties"]
    golden = parts["golden"]["properties"]["images"]
    assert keys["nin_edge.format_version"]["const"] == FORMAT_VERSION
    assert (labels["maxItems"], labels["items"]["maxLength"]) == (MAX_CLASSES, MAX_LABEL)
    assert (steps["size"]["minimum"], steps["size"]["maximum"]) == (MIN_SIDE, MAX_SIDE)
    assert golden["maxItems"] == MAX_GOLDEN
    assert golden["items"]["prefixItems"][1]["maximum"] == MAX_GOLDEN_SCALE * MAX_SIDE
    assert keys["nin_edge.precision"]["enum"] == list(PRECISIONS)
    assert steps["embedded"]["enum"] == list(EMBEDDED)

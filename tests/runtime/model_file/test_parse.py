"""The metadata's values: of the wrong type, senseless or absurd ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nin_edge_runtime import ModelFileError, read_model
from nin_edge_runtime.model_file import FORMAT_VERSION

KEYS = (
    *("architecture", "certificate", "data", "format_version", "golden", "labels"),
    *("multiply_adds", "parameters", "precision", "preprocessing", "sha256", "temperature"),
    "versions",
)


class TestFormat:
    def test_a_newer_format_is_refused_naming_both(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], tmp_path: Path
    ) -> None:
        path = tmp_path / "newer.onnx"
        path.write_bytes(forge(tiny_bytes, {"format_version": str(FORMAT_VERSION + 41)}))
        with pytest.raises(
            ModelFileError, match=rf"newer\.onnx.* {FORMAT_VERSION + 41}\b.* {FORMAT_VERSION}\b"
        ):
            read_model(path)

    @pytest.mark.parametrize("key", KEYS)
    def test_a_missing_key_is_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], key: str
    ) -> None:
        said = {"format_version": "without nin-edge's metadata", "sha256": "SHA-256"}
        with pytest.raises(ModelFileError, match=said.get(key, rf"nin_edge\.{key} is missing")):
            read_model(forge(tiny_bytes, {key: None}))

    @pytest.mark.parametrize("key", ["labels", "sha256", "format_version"])
    def test_a_key_given_twice_is_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], key: str
    ) -> None:
        with pytest.raises(ModelFileError, match="twice"):
            read_model(forge(tiny_bytes, twice=key))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("format_version", value) for value in ("0", "-1", "1.0", '"1"', "true", "null")),
            *(("labels", value) for value in ("[]", '["a"]', '["a", "a", "b"]', "[1, 2, 3]")),
            *(("labels", value) for value in ("null", "3", '"abc"', '{"a": 1, "b": 2, "c": 3}')),
            *(("precision", value) for value in ('"fp8"', "32", "[]", "null")),
            *(("temperature", value) for value in ("0", "-1", "NaN", "Infinity", "1e999")),
            *(("temperature", value) for value in ("null", '"1.5"', "[1]", "1" + "0" * 400)),
            *(("parameters", value) for value in ("-1", "1.5", '"3"', "true")),
            ("multiply_adds", "null"),
            *(("architecture", value) for value in ("[]", "null", '"nin"')),
            *((key, "[]") for key in ("data", "versions", "certificate", "preprocessing")),
            *(("golden", value) for value in ("{}", "[]", "null", '"none"')),
            *(("labels", value) for value in ("", "{", '["a", "b",]', "'a'", '["a", "b"] x')),
            ("data", '{"size": NaN}'),
            ("data", "[" * 100_000),
        ],
        ids=lambda text: text if len(text) < 30 else f"{text[:8]}...",
    )
    def test_a_value_of_the_wrong_kind_is_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], key: str, value: str
    ) -> None:
        with pytest.raises(ModelFileError, match="damaged metadata"):
            read_model(forge(tiny_bytes, {key: value}))

    @pytest.mark.parametrize(
        "change",
        [
            {"size": "16"},
            {"size": 0},
            {"size": 1e3},
            {"size": True},
            {"channels": 2},
            {"channels": 1},
            {"mean": [0.5]},
            {"mean": "abc"},
            {"mean": [None] * 3},
            {"mean": [10**400] * 3},
            {"std": [0, 0, 0]},
            {"std": {}},
            {"embedded": "some"},
            {"embedded": ["full"]},
        ],
        ids=lambda change: str(change)[:30],
    )
    def test_senseless_preprocessing_is_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], change: dict[str, object]
    ) -> None:
        steps = read_model(tiny_bytes)[1].preprocessing
        good = {"size": steps.size, "channels": 3, "mean": steps.mean, "std": steps.std}
        good["embedded"] = "full"
        read_model(forge(tiny_bytes, {"preprocessing": json.dumps(good)}))
        with pytest.raises(ModelFileError, match="damaged metadata"):
            read_model(forge(tiny_bytes, {"preprocessing": json.dumps(good | change)}))

    @pytest.mark.parametrize(
        "change",
        [
            {"formula": 2},
            {"images": []},
            {"images": [], "pytorch": [], "file": []},
            {"images": [[0, 16, 16]]},
            {"images": [[-1, 16, 16]] * 8},
            {"images": [[2**31, 16, 16]] * 8},
            {"images": [[0, 0, 16]] * 8},
            {"images": [[0, 16, 100_000]] * 8},
            {"images": [[0, 16, 81]] * 8},
            {"images": [[0, 16]] * 8},
            {"images": [0] * 8},
            {"pytorch": [[0.5, 0.5]] * 8},
            {"file": [[1, 0, 0]] * 7},
            {"file": [["NaN", 0, 0]] * 8},
            {"file": None},
        ],
        ids=lambda change: str(change)[:40],
    )
    def test_senseless_golden_samples_are_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], change: dict[str, object]
    ) -> None:
        golden = read_model(tiny_bytes)[1].golden
        good = {key: getattr(golden, key) for key in ("formula", "images", "pytorch", "file")}
        with pytest.raises(ModelFileError, match="damaged metadata"):
            read_model(forge(tiny_bytes, {"golden": json.dumps(good | change)}))


class TestMetadata:
    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("labels", json.dumps([str(n) for n in range(70_000)]), "70000 labels"),
            ("labels", json.dumps(["x" * 1001, "y", "z"]), "1001 characters"),
            ("labels", '["\\ud800", "b", "c"]', "surrogate"),
            ("data", '{"name": "\\udfff"}', "surrogate"),
            ("parameters", "9" * 4000, "4000 digits"),
            ("certificate", '{"deep": ' + "9" * 900_000 + "}", "900000 digits"),
            ("certificate", '{"deep": ' + "[]," * 1_000_000 + "0}", "at most 1,000,000"),
            ("golden", "{}" + " " * 20_000, "golden: 20,002 characters, expected at most 13,000"),
            ("labels", "[" + "[]," * 1_000_000 + "0]", "more than 200,000 brackets"),
            ("precision", "[" + "1.5," * 200_000 + "0]", "precision a list of 200,001,"),
        ],
        ids=[
            *("labels", "a long label", "half a character", "half a name", "a long number"),
            *("a very long number", "a long value", "long golden samples", "many lists", "a list"),
        ],
    )
    def test_absurd_values_are_refused_at_once(
        self,
        tiny_bytes: bytes,
        forge: Callable[..., bytes],
        refused: Callable[..., str],
        key: str,
        value: str,
        said: str,
    ) -> None:
        assert len(refused(forge(tiny_bytes, {key: value}), said)) < 600

    def test_megabytes_of_metadata_are_refused(
        self, onnx_file: Callable[..., bytes], refused: Callable[..., str]
    ) -> None:
        data = onnx_file(b"\x12\x04main", {"nin_edge.data": f'"{"x" * 17_000_000}"'})
        refused(data, "bytes of metadata")

    def test_keys_of_later_releases_are_not_read(
        self, tiny_bytes: bytes, forge: Callable[..., bytes]
    ) -> None:
        later = read_model(forge(tiny_bytes, {"later": "[" * 1_000_000, "labels_2": "no JSON"}))[1]
        assert later == replace(read_model(tiny_bytes)[1], sha256=later.sha256)

    @pytest.mark.parametrize("size", [1, 15, 513, 4096])
    def test_an_input_side_out_of_its_range_is_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], size: int
    ) -> None:
        steps = {"size": size, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
        changed = {"preprocessing": json.dumps({**steps, "embedded": "full"})}
        with pytest.raises(ModelFileError, match="16 to 512"):
            read_model(forge(tiny_bytes, changed))

    @pytest.mark.parametrize(
        "change",
        [{"size": 32}, {"embedded": "normalize"}, {"embedded": "none"}],
        ids=str,
    )
    def test_a_graph_of_another_kind_than_the_metadata_says_is_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], change: dict[str, object]
    ) -> None:
        steps = {"size": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
        changed = {"preprocessing": json.dumps({**steps, "embedded": "full", **change})}
        with pytest.raises(ModelFileError, match="refused before it is run"):
            read_model(forge(tiny_bytes, changed))

    @pytest.mark.parametrize(
        ("count", "side", "said"),
        [(17, 16, "17, expected 1 to 16"), (1, 81, "1 to 80 pixels"), (8, 4096, "1 to 80 pixels")],
    )
    def test_golden_samples_that_take_long_are_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], count: int, side: int, said: str
    ) -> None:
        rows = [[0.5, 0.25, 0.25]] * count
        golden = {"formula": 1, "images": [[0, 16, side]] * count, "pytorch": rows, "file": rows}
        with pytest.raises(ModelFileError, match=said):
            read_model(forge(tiny_bytes, {"golden": json.dumps(golden)}))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("architecture", value) for value in ('{"blocks": [1, 2]}', '{"blocks": [[]]}')),
            *(("architecture", value) for value in ('{"blocks": 3}', '{"preset": ["nin"]}')),
            *(("architecture", value) for value in ('{"width": "1"}', '{"batch_norm": 1}')),
            ("architecture", '{"later": ' + "[" * 200 + "1" + "]" * 200 + "}"),
            *(("data", value) for value in ('{"name": 3}', '{"name": ["a"]}', '{"licence": 1.5}')),
            *(("versions", value) for value in ('{"python": 3.11}', '{"torch": {"a": 1}}')),
            *((key, '{"later": 1e999}') for key in ("architecture", "data", "certificate")),
            ("certificate", '{"later": -1E400}'),
        ],
        ids=lambda text: text[:30],
    )
    def test_odd_values_for_people_are_refused_as_well(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], key: str, value: str
    ) -> None:
        with pytest.raises(ModelFileError, match="damaged metadata") as error:
            read_model(forge(tiny_bytes, {key: value}))
        assert len(str(error.value)) < 500

    def test_values_that_later_releases_may_add_are_taken(
        self, tiny_bytes: bytes, forge: Callable[..., bytes]
    ) -> None:
        later = {"architecture": '{"blocks": [[8, 8]], "groups": [1, 2]}', "data": '{"name": "a"}'}
        info = read_model(forge(tiny_bytes, later))[1]
        assert info.architecture["groups"] == [1, 2]
        assert info.data == {"name": "a"}

    def test_text_is_never_evaluated(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], tmp_path: Path
    ) -> None:
        trap = tmp_path / "trap"
        call = f"__import__('pathlib').Path({str(trap)!r}).touch()"
        for value in (call, json.dumps([call, "{0.__class__}", "%n"])):
            data = forge(tiny_bytes, {"labels": value})
            try:
                labels = read_model(data)[1].labels
            except ModelFileError:
                continue
            assert labels == (call, "{0.__class__}", "%n")
        assert not trap.exists()

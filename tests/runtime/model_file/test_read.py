from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from nin_edge_runtime import ModelFileError, read_model
from nin_edge_runtime.model_file.read import FORMAT_VERSION, file_sha256, find_sha256

KEYS = (
    *("architecture", "certificate", "data", "format_version", "golden", "labels"),
    *("multiply_adds", "parameters", "precision", "preprocessing", "sha256", "temperature"),
    "versions",
)


class TestGoodFiles:
    @pytest.mark.parametrize(
        ("name", "embedded", "channels"),
        [
            ("format-1", "full", 3),
            ("normalize", "normalize", 3),
            ("none", "none", 3),
            ("grey", "full", 1),
            ("grey-none", "none", 1),
        ],
    )
    def test_metadata_is_read_typed(
        self, tiny_model: Path, name: str, embedded: str, channels: int
    ) -> None:
        path = tiny_model.with_name(f"{name}.fp32.onnx")
        data, info = read_model(path)
        assert data == path.read_bytes()
        assert info.format_version == 1
        assert info.labels == ("circle", "square", "étoile")
        assert (info.embedded, info.precision, info.temperature) == (embedded, "fp32", 1.5)
        assert (info.preprocessing.size, info.preprocessing.channels) == (16, channels)
        assert info.preprocessing.std == (0.25,) * channels
        assert info.parameters > 0
        assert info.multiply_adds > info.parameters
        assert len(info.golden.images) == len(info.golden.file) == len(info.golden.pytorch) == 8
        assert np.sum(info.golden.file, axis=1) == pytest.approx(1, abs=1e-5)

    def test_path_string_and_bytes_are_the_same(self, tiny_model: Path) -> None:
        assert read_model(str(tiny_model)) == read_model(tiny_model.read_bytes())
        assert read_model(tiny_model) == read_model(str(tiny_model))

    def test_the_digest_is_that_of_the_file_with_its_digits_as_zeros(
        self, tiny_bytes: bytes
    ) -> None:
        digits = find_sha256(tiny_bytes)
        assert digits is not None
        stored = tiny_bytes[digits].decode()
        assert stored == read_model(tiny_bytes)[1].sha256 == file_sha256(tiny_bytes, digits)

    def test_unknown_keys_are_ignored(self, tiny_bytes: bytes, forge: Callable[..., bytes]) -> None:
        forged = forge(tiny_bytes, {"invented": '{"later": [1, 2]}'})
        assert read_model(forged)[1].labels == read_model(tiny_bytes)[1].labels

    def test_an_unchanged_file_survives_the_forger(
        self, tiny_bytes: bytes, forge: Callable[..., bytes]
    ) -> None:
        assert read_model(forge(tiny_bytes))[1].golden == read_model(tiny_bytes)[1].golden


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "no such file"),
            (b"", "an empty file"),
            (b"this is a text\n", "not an ONNX model"),
            (png(), "not an ONNX model"),
            (b"\0" * 100, "not an ONNX model"),
            (b"\x08\x08", "no graph"),
            (b"\x08" + b"\xff" * 20, "not an ONNX model"),
            (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "not an ONNX model"),
        ],
        ids=["missing", "empty", "text", "PNG", "zeros", "no graph", "long number", "long field"],
    )
    def test_a_foreign_file_is_named_with_the_reason(
        self, tmp_path: Path, content: bytes | None, said: str
    ) -> None:
        path = tmp_path / "model.onnx"
        if content is not None:
            path.write_bytes(content)
        for source in (path, str(path)):
            with pytest.raises(ModelFileError, match=said) as error:
                read_model(source)
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)

    def test_a_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="folder") as error:
            read_model(tmp_path)
        assert str(tmp_path) in str(error.value)

    @pytest.mark.parametrize("name", ["a\0b.onnx", "x" * 5000 + ".onnx"], ids=["NUL", "long"])
    def test_an_impossible_path_is_refused(self, name: str) -> None:
        with pytest.raises(ModelFileError, match=r"\.onnx"):
            read_model(name)

    def test_an_onnx_model_of_someone_else_is_told_from_a_damaged_one(
        self, onnx_file: Callable[..., bytes]
    ) -> None:
        foreign = onnx_file(b"\x12\x04main", {"author": "someone"})
        with pytest.raises(ModelFileError, match="without nin-edge's metadata"):
            read_model(foreign)

    def test_a_checkpoint_is_told_from_a_model(self, tiny_weights: Path) -> None:
        with pytest.raises(ModelFileError, match=r"tiny\.safetensors.*nin-edge export"):
            read_model(tiny_weights)

    def test_bytes_are_named_by_their_length(self) -> None:
        with pytest.raises(ModelFileError, match="5 bytes"):
            read_model(b"hello")


class TestDamage:
    def test_no_truncated_file_is_accepted(self, tiny_bytes: bytes, tmp_path: Path) -> None:
        path = tmp_path / "cut.onnx"
        path.write_bytes(tiny_bytes[: len(tiny_bytes) // 2])
        with pytest.raises(ModelFileError, match=r"cut\.onnx"):
            read_model(path)
        for length in range(0, len(tiny_bytes), 7):
            with pytest.raises(ModelFileError):
                read_model(tiny_bytes[:length])

    def test_no_flipped_bit_is_accepted(self, tiny_bytes: bytes, rng: np.random.Generator) -> None:
        for position in range(0, len(tiny_bytes), 3):
            damaged = bytearray(tiny_bytes)
            damaged[position] ^= 1 << rng.integers(8)
            with pytest.raises(ModelFileError):
                read_model(bytes(damaged))

    @pytest.mark.parametrize("extra", [b"\0", b"\x08\x08", b"garbage"])
    def test_nothing_may_be_appended(self, tiny_bytes: bytes, extra: bytes) -> None:
        with pytest.raises(ModelFileError):
            read_model(tiny_bytes + extra)

    def test_a_changed_weight_is_called_damage(self, tiny_bytes: bytes) -> None:
        damaged = bytearray(tiny_bytes)
        damaged[len(damaged) // 3] ^= 1
        with pytest.raises(ModelFileError, match="SHA-256"):
            read_model(bytes(damaged))

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(data=st.binary(max_size=300))
    @example(data=b"")
    def test_random_bytes_are_refused(self, data: bytes) -> None:
        with pytest.raises(ModelFileError):
            read_model(data)

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(cut=st.floats(0, 1), patch=st.binary(min_size=1, max_size=40))
    def test_patched_files_are_refused(self, tiny_bytes: bytes, cut: float, patch: bytes) -> None:
        start = int(cut * len(tiny_bytes))
        patched = tiny_bytes[:start] + patch + tiny_bytes[start + len(patch) :]
        if patched != tiny_bytes:
            with pytest.raises(ModelFileError):
                read_model(patched)


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

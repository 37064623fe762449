"""Reading model files: good ones, foreign ones and damaged ones."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from nin_edge_runtime import ModelFileError, read_model
from nin_edge_runtime.model_file.read import file_sha256, find_sha256


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

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
    def test_a_pipe_is_named_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(pipe := tmp_path / "pipe")
        with pytest.raises(ModelFileError, match="pipe"):
            read_model(pipe)

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


@pytest.mark.exhaustive
class TestDamage:
    def test_no_truncated_file_is_accepted(self, tiny_bytes: bytes, tmp_path: Path) -> None:
        path = tmp_path / "cut.onnx"
        path.write_bytes(tiny_bytes[: len(tiny_bytes) // 2])
        with pytest.raises(ModelFileError, match=r"cut\.onnx"):
            read_model(path)
        for length in range(0, len(tiny_bytes), 17):
            with pytest.raises(ModelFileError):
                read_model(tiny_bytes[:length])

    def test_no_flipped_bit_is_accepted(self, tiny_bytes: bytes, rng: np.random.Generator) -> None:
        for position in range(0, len(tiny_bytes), 7):
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


DAMAGE = """
import sys
from pathlib import Path
from nin_edge_runtime import Classifier, ModelFileError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        Classifier(path, provider="cpu", threads=1)
    except ModelFileError:
        print(path.name, "refused")
    else:
        print(path.name, "taken")
"""


@pytest.mark.exhaustive
class TestDamageWithAValidDigest:
    """benchmarks/damage.py tries five hundred, each in a process of its own."""

    def test_flipped_bits_in_the_graph_are_refused_or_taken_but_crash_nothing(
        self,
        tiny_bytes: bytes,
        rng: np.random.Generator,
        tmp_path: Path,
        resigned: Callable[[bytes], bytes],
        run_python: Callable[..., subprocess.CompletedProcess[str]],
    ) -> None:
        count = 60
        for index in range(count):
            broken = bytearray(tiny_bytes)
            for _ in range(rng.integers(1, 4)):
                broken[rng.integers(0, tiny_bytes.index(b"nin_edge."))] ^= 1 << int(rng.integers(8))
            try:
                data = resigned(bytes(broken))
            except ValueError:
                data = bytes(broken)
            (tmp_path / f"{index:02}.onnx").write_bytes(data)
        done = run_python(DAMAGE, tmp_path)
        assert done.returncode == 0, done.stderr
        results = done.stdout.split()[1::2]
        assert len(results) == count
        assert set(results) == {"refused", "taken"}

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from nin_edge.checkpoint import Checkpoint
from nin_edge.tensorfile import read_tensors, write_tensors
from nin_edge_runtime import ModelFileError


@pytest.fixture
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return Checkpoint.load(tiny_weights)


def refused(path: Path, words: str) -> None:
    """Loading fails with a message that starts with the file and says what is wrong."""
    with pytest.raises(ModelFileError, match=words) as caught:
        Checkpoint.load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 5000, -1000, -1])
def test_a_truncated_file_is_refused(tiny_weights: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(tiny_weights.read_bytes()[:length])
    refused(path, "truncated or foreign")


def test_a_file_with_bytes_added_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(tiny_weights.read_bytes() + b"\0")
    refused(path, "truncated or foreign")


def test_another_programs_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    refused(path, "without nin-edge's header, expected a checkpoint")


@pytest.mark.parametrize(
    "content", [b"hello, I am text", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(60)]
)
def test_any_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    refused(path, "truncated or foreign")


def test_an_onnx_model_is_refused(tiny_model: Path) -> None:
    refused(tiny_model, "an ONNX model, expected a checkpoint")


def test_an_onnx_model_by_another_name_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny_model.read_bytes())
    refused(path, "expected a checkpoint|not a readable checkpoint")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "a folder, expected a checkpoint")
    refused(tmp_path / "missing.safetensors", "no such file, expected a checkpoint")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path)
    old = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        replace(checkpoint, temperature=9.0).save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["checkpoint", "training state"])
def test_each_kind_of_file_is_read_as_that_kind_alone(
    checkpoint: Checkpoint, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.safetensors"
    header: Mapping[str, Any] = {"step": 3}
    write_tensors(path, kind, {"weight": torch.arange(3)}, header)
    tensors, found = read_tensors(path, kind)
    assert found == header
    assert torch.equal(tensors["weight"], torch.arange(3))
    other = {"checkpoint": "training state", "training state": "checkpoint"}[kind]
    with pytest.raises(ModelFileError, match=f"a nin-edge {kind}, expected a {other}"):
        read_tensors(path, other)


@pytest.mark.parametrize("where", ["tensor", "label"])
def test_one_flipped_bit_is_noticed(where: str, tiny_weights: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_weights.read_bytes())
    data[-100 if where == "tensor" else data.index(b"square")] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match=r"flipped\.safetensors: a damaged checkpoint"):
        Checkpoint.load(tmp_path / "flipped.safetensors")

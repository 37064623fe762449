"""Tensors and a JSON header in one safetensors file, written atomically, checked when read.

Checkpoints and training states are such files. The header carries what the file is (its kind), the
version of its layout, and the SHA-256 of everything in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
from torch import Tensor

from nin_edge import __version__
from nin_edge.files import write_atomically
from nin_edge_runtime import ModelFileError

FORMAT_VERSION: Final = 1
"""Version of the header's layout; newer files are refused, older ones will stay readable."""


def write_tensors(
    path: Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON-able header as one safetensors file, atomically.

    Args:
        path: the file to write or replace.
        kind: what the file is, checked by `read_tensors`.
        tensors: what to store; copied to the CPU, contiguous.
        header: values that JSON can carry.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = {key: json.dumps(value, allow_nan=False) for key, value in header.items()}
    marks = {
        "nin_edge.kind": kind,
        "nin_edge.format_version": str(FORMAT_VERSION),
        **text,
    }
    marks["nin_edge.sha256"] = tensors_digest(plain, marks)
    write_atomically(path, safetensors.torch.save(plain, metadata=marks))


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        ModelFileError: missing, damaged, of another kind or of a newer format.
    """
    if not path.is_file():
        raise ModelFileError(
            f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected a {kind}"
        )
    if path.suffix.lower() == ".onnx":
        raise ModelFileError(f"{path}: an ONNX model, expected a {kind} (.safetensors)")
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        # The library checked the header's length and JSON, but hands only the tensors out.
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        if "nin_edge.kind" not in metadata:
            raise ModelFileError(
                f"{path}: a safetensors file without nin-edge's header, expected a {kind}"
            )
        digest = metadata.pop("nin_edge.sha256", None)
        whole = digest == tensors_digest(tensors, metadata)
        found = metadata.pop("nin_edge.kind")
        if found != kind:
            raise ModelFileError(f"{path}: a nin-edge {found}, expected a {kind}")
        version = metadata.pop("nin_edge.format_version", "")
        if not version.isascii() or not version.isdigit():
            raise ModelFileError(
                f"{path}: a damaged {kind}: format version {version!r}, expected an integer"
            )
        if int(version) > FORMAT_VERSION:
            raise ModelFileError(
                f"{path}: {kind} format {version}, this nin-edge {__version__} reads up to "
                f"{FORMAT_VERSION}: update it"
            )
        if not whole:
            raise ModelFileError(f"{path}: a damaged {kind}: its SHA-256 is not the one it carries")
        return tensors, {key: json.loads(value) for key, value in metadata.items()}
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path}: not a readable {kind}, truncated or foreign ({error})"
        ) from error


def tensors_digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of the header and of all tensors with their names, types and shapes."""
    digest = hashlib.sha256(json.dumps(sorted(header.items())).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()

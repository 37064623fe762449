"""Tensors and a JSON header in one safetensors file, written atomically and checked when read.

Checkpoints and training states are such files. The header says what the file contains, the version
of its layout, and the SHA-256 of everything in it. A file is never a pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import safetensors
import safetensors.torch
from torch import Tensor

from nin_edge._version import __version__
from nin_edge.files import write_atomically
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.folders import read_start
from nin_edge_runtime.model_file import strict_json

FORMAT_VERSION: Final = 1
"""Version of the header's layout; files of a newer version are refused."""

_MAX_BYTES: Final = 2**31 - 1  # as for a model; any network of this project takes less

Content: TypeAlias = Literal["checkpoint", "training state"]
"""What a file contains."""


def write_tensors(
    path: Path, content: Content, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a header as one safetensors file, atomically.

    Args:
        path: file to write or replace.
        content: what the file contains, which `read_tensors` checks.
        tensors: tensors by name; copied to the CPU.
        header: values that JSON can represent, by name.

    Raises:
        OSError: the file cannot be written; an existing file is left as it was.
        ValueError: a header's number is NaN or infinite, which JSON cannot represent.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {
        "nin_edge.kind": content,
        "nin_edge.format_version": str(FORMAT_VERSION),
        **{key: json.dumps(value, allow_nan=False) for key, value in header.items()},
    }
    metadata["nin_edge.sha256"] = tensors_digest(plain, metadata)
    write_atomically(path, safetensors.torch.save(plain, metadata=metadata))


def read_tensors(path: Path, content: Content) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the header that `write_tensors` wrote.

    Raises:
        ModelFileError: the file is missing, damaged, of a newer format, or contains something else.
    """
    if not path.is_file():
        problem = (
            "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "no such file"
        )
        raise ModelFileError(f"{path}: {problem}, expected a {content}")
    if path.suffix.lower() == ".onnx":
        raise ModelFileError(f"{path}: an ONNX model, expected a {content} (.safetensors)")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES:,} bytes")
        data = read_start(path, _MAX_BYTES)
        tensors = safetensors.torch.load(data)
        # The library checks the header's length and JSON, but returns the tensors only.
        length = int.from_bytes(data[:8], "little")
        metadata = strict_json.loads(data[8 : 8 + length].decode()).get("__metadata__") or {}
        _check(path, content, tensors, metadata)
        header = {
            key: strict_json.loads(value)
            for key, value in metadata.items()
            if not key.startswith("nin_edge.")
        }
    except ModelFileError:
        raise
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise ModelFileError(
            f"{path}: not a readable {content}, truncated or foreign "
            f"({strict_json.shortened(error)})"
        ) from error
    return tensors, header


def _check(
    path: Path, content: Content, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Raise ModelFileError unless the file is intact, of a known version, and has the content."""
    if "nin_edge.kind" not in metadata:
        raise ModelFileError(
            f"{path}: a safetensors file without nin-edge's header, expected a {content}"
        )
    if metadata["nin_edge.kind"] != content:
        raise ModelFileError(
            f"{path}: a nin-edge {metadata['nin_edge.kind']}, expected a {content}"
        )
    version = metadata.get("nin_edge.format_version", "")
    if not version.isascii() or not version.isdigit():
        raise ModelFileError(
            f"{path}: a damaged {content}: format version {version!r}, expected an integer"
        )
    if int(version) > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: {content} format {version}, this nin-edge {__version__} reads up to "
            f"{FORMAT_VERSION}: update it"
        )
    digested = {key: value for key, value in metadata.items() if key != "nin_edge.sha256"}
    if metadata.get("nin_edge.sha256") != tensors_digest(tensors, digested):
        raise ModelFileError(f"{path}: a damaged {content}: its content does not match its SHA-256")


def tensors_digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of a header and of tensors with their names, types and shapes, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(sorted(header.items())).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def check_tensors(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that tensors can take the place of others.

    Args:
        given: tensors by name, as read from a file.
        expected: those of the network; their values do not matter.

    Raises:
        ValueError: names, shapes or types differ; or a value is not finite, or a variance or a
            counter negative.
    """
    for name in sorted(given.keys() | expected.keys()):
        shape, wanted = _shape(given.get(name)), _shape(expected.get(name))
        if shape != wanted:
            raise ValueError(
                f"tensor {name!r} has shape {shape}, the network in the header has {wanted}"
            )
        value, dtype = given[name], expected[name].dtype
        if value.dtype != dtype or not value.isfinite().all():
            raise ValueError(
                f"tensor {name!r} is of {value.dtype} or not finite, "
                f"expected finite numbers of {dtype}"
            )
        counts = name.endswith("running_var") or not value.is_floating_point()
        if counts and (value < 0).any():
            raise ValueError(f"tensor {name!r} has negative values, expected none")


def _shape(tensor: Tensor | None) -> str:
    return "none (no such tensor)" if tensor is None else str(tuple(tensor.shape))

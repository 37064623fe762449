"""Writing a model repository for Triton: two models a file, each with its configuration.

`NAME-PRECISION` runs the graph in Triton's ONNX Runtime backend: decoded pixels in, probabilities
and class maps out. `NAME-PRECISION-python` runs `python_model.py` in the Python backend: encoded
images in, labels out. A model that is there already gets a new version, which Triton takes over.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from nin_edge.files import require_folder, write_atomically
from nin_edge_export.export import ExportedModel
from nin_edge_runtime import NinEdgeError

MAX_BATCH: Final = 64
"""Most images that Triton puts into one run."""

_TYPES: Final[Mapping[int, str]] = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
}
_CODE: Final = Path(__file__).with_name("python_model.py")
_LABELS: Final = "labels.txt"
_MODEL: Final = "model.onnx"

_CPU: Final = "instance_group [ { kind: KIND_CPU count: 1 } ]"
_BATCHES: Final = "dynamic_batching { }"


@dataclass(frozen=True)
class TritonModel:
    """One model of a repository."""

    name: str
    """What clients call it; the name of its folder."""
    folder: Path
    """Folder of the version that was written."""


@dataclass(frozen=True)
class _Tensor:
    """An input or output of a graph."""

    name: str
    type: str
    dims: tuple[int, ...]
    """With the batch; -1 for any."""

    def entry(self, *, batched: bool, labels: bool = False) -> str:
        """It in a configuration, whose dimensions are without the batch that Triton makes."""
        dims = ", ".join(map(str, self.dims[1:] if batched else self.dims))
        label_file = f' label_filename: "{_LABELS}"' if labels else ""
        return f'{{ name: "{self.name}" data_type: {self.type} dims: [ {dims} ]{label_file} }}'


def write_repository(
    models: Sequence[ExportedModel], name: str, repository: Path
) -> list[TritonModel]:
    """Write models to a repository, or new versions of those that are there.

    A configuration that is there is kept, with its changes.

    Args:
        models: from `export_models`.
        name: the models are called `NAME-PRECISION` and `NAME-PRECISION-python`; what is neither a
            letter, a digit, a dot nor an underscore becomes a hyphen.
        repository: folder to write to; made if missing.

    Raises:
        NinEdgeError: a label has a line break, or a model is there whose labels, inputs or outputs
            are others. Nothing is written then.
        OSError: a file cannot be written; no version is left half written.
    """
    require_folder(repository)
    stem = re.sub(r"[^\w.]+", "-", name)
    written, planned = [], []
    for model in models:
        labels = _label_lines(model.info.labels)
        own = f"{stem}-{model.info.precision}"
        for folder, config, files in (
            (repository / own, _onnx_config(own, model.data), {}),
            (
                repository / f"{own}-python",
                _python_config(f"{own}-python", len(model.info.labels)),
                {"model.py": _CODE.read_bytes()},
            ),
        ):
            _check_same(folder, labels, model.data)
            planned.append((folder, config, labels, {_MODEL: model.data} | files))
    for folder, config, labels, files in planned:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _LABELS, labels)
        written.append(TritonModel(folder.name, _write_version(folder, files)))
        if not (folder / "config.pbtxt").exists():  # the last, with which Triton may load it
            write_atomically(folder / "config.pbtxt", config.encode())
    return written


def _onnx_config(name: str, data: bytes) -> str:
    """The configuration for the ONNX Runtime backend; its dimensions must be the graph's."""
    inputs, outputs = _signature(data)
    batched = inputs[0].dims[0] == -1  # else the graph fixes the number of images
    full = inputs[0].dims[-3:-1] == (-1, -1)  # ONNX Runtime has no such `Resize` for CUDA
    return _config(
        name,
        "onnxruntime",
        [tensor.entry(batched=batched) for tensor in inputs],
        [
            tensor.entry(batched=batched, labels=tensor.name == "probabilities")
            for tensor in outputs
        ],
        max_batch=MAX_BATCH if batched else 0,
        more=[*([_CPU] if full else []), *([_BATCHES] if batched else [])],
    )


def _python_config(name: str, classes: int) -> str:
    """The configuration for the Python backend, with what `python_model.py` takes and gives."""
    outputs = [
        _Tensor("label", "TYPE_STRING", (-1, 1)).entry(batched=True),
        _Tensor("score", "TYPE_FP32", (-1, 1)).entry(batched=True),
        _Tensor("probabilities", "TYPE_FP32", (-1, classes)).entry(batched=True, labels=True),
    ]
    image = _Tensor("image", "TYPE_STRING", (-1, 1)).entry(batched=True)
    return _config(name, "python", [image], outputs, max_batch=MAX_BATCH, more=[_CPU, _BATCHES])


def _config(
    name: str,
    backend: str,
    inputs: Iterable[str],
    outputs: Iterable[str],
    *,
    max_batch: int,
    more: Iterable[str],
) -> str:
    lines = (
        f'name: "{name}"',
        f'backend: "{backend}"',
        f"max_batch_size: {max_batch}",
        *(f"input [ {entry} ]" for entry in inputs),
        *(f"output [ {entry} ]" for entry in outputs),
        *more,
    )
    return "\n".join(lines) + "\n"


def _signature(data: bytes) -> tuple[list[_Tensor], list[_Tensor]]:
    """The inputs and outputs of a graph."""
    graph = onnx.load_model_from_string(data).graph
    return [_tensor(value) for value in graph.input], [_tensor(value) for value in graph.output]


def _tensor(value: onnx.ValueInfoProto) -> _Tensor:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value or -1 for dim in tensor.shape.dim)
    return _Tensor(value.name, _TYPES[tensor.elem_type], dims)


def _label_lines(labels: Sequence[str]) -> bytes:
    """The labels, one a line, as Triton reads them.

    Raises:
        NinEdgeError: one of them has a line break.
    """
    for label in labels:
        if label.splitlines() != [label]:
            raise NinEdgeError(
                f"the label {label!r} has a line break: {_LABELS} has one label a line"
            )
    return "".join(f"{label}\n" for label in labels).encode()


def _check_same(folder: Path, labels: bytes, data: bytes) -> None:
    """Refuse a version for a model with other labels, inputs or outputs, which its users rely on.

    Raises:
        NinEdgeError: it would be one.
    """
    versions = _versions(folder)
    if not versions:
        return
    hint = "expected another folder for --triton"
    if not (folder / _LABELS).is_file() or (folder / _LABELS).read_bytes() != labels:
        raise NinEdgeError(f"{folder}: a model of other labels, {hint}")
    last = folder / str(versions[-1]) / _MODEL
    try:
        same = last.is_file() and _signature(last.read_bytes()) == _signature(data)
    except (DecodeError, KeyError):  # a damaged model, or one of other types
        same = False
    if not same:
        raise NinEdgeError(f"{folder}: a model of other inputs or outputs, {hint}")


def _versions(folder: Path) -> list[int]:
    """The versions of a model, ascending."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name))


def _write_version(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the next version; Triton passes over a folder without a number, so it never sees half.

    Raises:
        OSError: a file cannot be written.
    """
    part = Path(tempfile.mkdtemp(dir=folder, prefix=".nin-edge-"))
    try:
        for name, content in files.items():
            write_atomically(part / name, content)
        part.chmod(0o755)  # mkdtemp's 0700 would hide it from the server's user
        version = folder / str(max(_versions(folder), default=0) + 1)
        return part.rename(version)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise

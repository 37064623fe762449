"""The artifact: a graph, its metadata, certificate and SHA-256 in one file (docs/artifact.md)."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from onnx import ModelProto

from nin_edge.checkpoint import Checkpoint, library_versions
from nin_edge.datasets import Dataset
from nin_edge_export.certificate import (
    GoldenReference,
    check_golden,
    check_images,
    choose_golden,
    trained_figures,
)
from nin_edge_export.graph import build_graph
from nin_edge_runtime import ModelInfo, read_model
from nin_edge_runtime.classifier import Classifier
from nin_edge_runtime.metadata import EMBEDDED, FORMAT_VERSION, PREFIX, file_sha256, find_sha256

# Instruction sets that ONNX Runtime picks its kernels by: results differ in the last digits between
# them.
_CPU_FLAGS: Final = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)


@dataclass(frozen=True)
class ExportedModel:
    """A finished file, in memory."""

    data: bytes
    """What to write to `NAME.PRECISION.onnx`."""
    info: ModelInfo
    """What the file says of itself."""


def export_model(
    checkpoint: Checkpoint,
    *,
    embedded: str = "full",
    dataset: Dataset | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedModel:
    """Export a checkpoint to an fp32 model and compare it with PyTorch.

    The same checkpoint gives the same bytes every time, on one machine with one set of packages.

    Args:
        checkpoint: the network to export.
        embedded: which preprocessing the graph does: `full`, `normalize` or `none`.
        dataset: compare over its test split too, and measure the accuracy there; golden samples
            alone if None.
        progress: told how many of those images are done, and of how many.

    Raises:
        GateError: the model and PyTorch differ by more than the tolerance.
        ValueError: `embedded` is none of the three.
    """
    if embedded not in EMBEDDED:
        raise ValueError(
            f"embedded preprocessing {embedded!r}: expected one of {', '.join(EMBEDDED)}"
        )
    graph = build_graph(checkpoint, embedded)
    network = checkpoint.network()
    golden = choose_golden(checkpoint, network)
    # The comparison needs a file that the runtime takes: a first one, certified for nothing yet.
    first = _seal(graph, _metadata(checkpoint, embedded, golden, golden.pytorch, {}))
    classify = Classifier(first, provider="cpu")
    answers, certificate = check_golden(classify, golden)
    certificate |= trained_figures(checkpoint)
    if dataset is not None:
        certificate["images"] = check_images(classify, checkpoint, network, dataset, progress)
    data = _seal(graph, _metadata(checkpoint, embedded, golden, answers, certificate))
    return ExportedModel(data, read_model(data)[1])


def _metadata(
    checkpoint: Checkpoint,
    embedded: str,
    golden: GoldenReference,
    answers: tuple[tuple[float, ...], ...],
    certificate: Mapping[str, Any],
) -> dict[str, Any]:
    """Values of the `nin_edge.*` keys."""
    return {
        "format_version": FORMAT_VERSION,
        "labels": checkpoint.labels,
        "preprocessing": {**asdict(checkpoint.preprocessing), "embedded": embedded},
        "precision": "fp32",
        "temperature": checkpoint.temperature or 1.0,
        "architecture": asdict(checkpoint.config),
        "parameters": sum(value.numel() for value in checkpoint.network().parameters()),
        "multiply_adds": checkpoint.config.multiply_adds(),
        "data": asdict(checkpoint.data),
        "versions": {
            **library_versions(),
            **{name: version(name) for name in ("onnx", "onnxscript", "onnxsim", "onnxruntime")},
            "processor": processor(),
        },
        "certificate": certificate,
        "golden": {
            "formula": golden.formula,
            "images": golden.images,
            "pytorch": golden.pytorch,
            "file": answers,
        },
    }


def _seal(graph: ModelProto, metadata: Mapping[str, Any]) -> bytes:
    """Serialise a graph with its metadata, and put the SHA-256 of the result into it."""
    model = ModelProto()
    model.CopyFrom(graph)
    for key, value in sorted({**metadata, "sha256": "0" * 64}.items()):
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        model.metadata_props.add(key=PREFIX + key, value=text)
    data: bytes = model.SerializeToString(deterministic=True)
    digits = find_sha256(data)
    assert digits is not None  # the loop above wrote it
    return data[: digits.start] + file_sha256(data, digits).encode() + data[digits.stop :]


def processor() -> str:
    """Architecture and instruction sets of this machine that decide how a network is computed."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    present = next(
        (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))),
        [],
    )
    return " ".join([platform.machine(), *(flag for flag in _CPU_FLAGS if flag in present)])

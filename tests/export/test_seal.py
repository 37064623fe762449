"""The finished file: self-describing, sealed and reproducible."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from nin_edge.checkpoint import Checkpoint
from nin_edge_export import ExportedModel
from nin_edge_export.seal import describe, seal
from nin_edge_runtime import DEFAULT_MODEL, Classifier, read_model
from nin_edge_runtime.golden import golden_image


def test_file_describes_itself(
    checkpoint: Checkpoint, unmeasured: dict[str, ExportedModel]
) -> None:
    info = unmeasured["fp32"].info
    assert info.labels == checkpoint.labels
    assert info.preprocessing == checkpoint.preprocessing
    assert (info.embedded, info.precision, info.temperature) == ("full", "fp32", 1.5)
    assert info.parameters == sum(p.numel() for p in checkpoint.network().parameters())
    assert info.multiply_adds == checkpoint.config.multiply_adds()
    assert info.data["name"] == "golden images"
    assert {"torch", "onnx", "onnxsim", "onnxruntime", "processor"} <= set(info.versions)


def test_metadata_come_back_as_they_were_sealed(
    unmeasured: dict[str, ExportedModel], graph: onnx.ModelProto
) -> None:
    info = unmeasured["fp32"].info
    again = read_model(seal(graph, replace(info, sha256="")))[1]
    assert again == info


def test_onnxruntime_may_come_from_another_package(
    checkpoint: Checkpoint,
    unmeasured: dict[str, ExportedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = metadata.Distribution.from_name

    def without(name: str) -> metadata.Distribution:
        if name == "onnxruntime":  # as where onnxruntime-gpu is installed
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", without)
    golden = unmeasured["fp32"].info.golden
    info = describe(checkpoint, precision="fp32", embedded="full", golden=golden)
    assert info.versions["onnxruntime"] == onnxruntime.__version__


def test_another_process_gives_the_same_bytes(
    unmeasured: dict[str, ExportedModel], tiny_weights: Path, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from nin_edge.checkpoint import Checkpoint; "
        "from nin_edge_export import export_models; "
        "[Path(sys.argv[2], m.info.precision).write_bytes(m.data) for m in "
        "export_models(Checkpoint.load(Path(sys.argv[1])))]"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(tiny_weights), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for precision, model in unmeasured.items():
        assert (tmp_path / precision).read_bytes() == model.data, precision


def test_default_model_is_the_export_of_the_default_weights(
    default_exports: Mapping[str, Path],
) -> None:
    data, info = read_model(DEFAULT_MODEL)
    data_again, again = read_model(default_exports["int8"])
    shipped, rebuilt = onnx.load_from_string(data), onnx.load_from_string(data_again)
    constants = [_constants(model) for model in (shipped, rebuilt)]
    assert constants[0].keys() == constants[1].keys()
    for name, value in constants[0].items():  # a processor may fold and round a bias otherwise
        scale = value.dtype == np.float32
        tolerance = {"rtol": 1e-6, "atol": 0} if scale else {"rtol": 0, "atol": 1}
        assert np.allclose(value, constants[1][name], **tolerance), name
    assert info.golden.images == again.golden.images
    assert np.allclose(info.golden.pytorch, again.golden.pytorch, rtol=0, atol=1e-5)
    if dict(info.versions) == dict(again.versions):  # which name the processor's kernels too
        measured = {f"nin_edge.{name}" for name in ("certificate", "golden", "sha256")}
        one, other = (
            {entry.key: entry.value for entry in model.metadata_props if entry.key not in measured}
            for model in (shipped, rebuilt)
        )
        assert one == other
        classify = Classifier(DEFAULT_MODEL, provider="cpu", threads=1)
        answers = [
            classify.graph(golden_image(*seed)[np.newaxis]).probabilities[0]
            for seed in info.golden.images
        ]
        assert np.allclose(info.golden.file, answers, rtol=0, atol=1e-6)


def _constants(model: onnx.ModelProto) -> dict[str, NDArray]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}

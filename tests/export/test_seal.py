"""The finished file: self-describing, sealed, reproducible, and refused when it is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset, DatasetError
from nin_edge.weights import DEFAULT_WEIGHTS
from nin_edge_export import ExportedModel, ExportOptions, export_models
from nin_edge_export import certify as certificate
from nin_edge_export import export as pipeline
from nin_edge_export.graph import build_graph
from nin_edge_export.int8.quantize import quantize
from nin_edge_export.seal import processor
from nin_edge_runtime import DEFAULT_MODEL, Classifier, GateError, read_model
from nin_edge_runtime.golden import golden_image


def _export(checkpoint: Checkpoint, *, embedded: str = "full", **given: Any) -> ExportedModel:
    options = ExportOptions(precisions=("fp32",), embedded=embedded)
    (model,) = export_models(checkpoint, options, **given)
    return model


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return Checkpoint.load(tiny_weights)


@pytest.fixture
def golden_dataset(checkpoint: Checkpoint) -> Dataset:
    """Synthetic images as a data set, labelled with what the network itself answers."""
    classify = Classifier(_export(checkpoint).data)
    images = np.stack([golden_image(seed, 16, 16) for seed in range(30)])
    every = np.arange(len(images))
    return Dataset(
        name="golden",
        labels=checkpoint.labels,
        images=images,
        targets=np.array([checkpoint.labels.index(classify(image).label) for image in images]),
        names=tuple(str(index) for index in every),
        train=every[:0],
        holdout=every[:10],
        test=every,
        unreadable=(),
        fingerprint="",
    )


def test_file_says_what_it_is(checkpoint: Checkpoint) -> None:
    info = _export(checkpoint).info
    assert info.labels == checkpoint.labels
    assert info.preprocessing == checkpoint.preprocessing
    assert (info.embedded, info.precision, info.temperature) == ("full", "fp32", 1.5)
    assert info.parameters == sum(p.numel() for p in checkpoint.network().parameters())
    assert info.multiply_adds == checkpoint.config.multiply_adds()
    assert info.data["name"] == "golden images"
    assert {"torch", "onnx", "onnxsim", "onnxruntime", "processor"} <= set(info.versions)


def test_onnxruntime_may_come_from_another_package(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = metadata.Distribution.from_name

    def without(name: str) -> metadata.Distribution:
        if name == "onnxruntime":  # as where onnxruntime-gpu is installed
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", without)
    assert _export(checkpoint).info.versions["onnxruntime"] == onnxruntime.__version__


def test_file_certifies_what_was_measured_and_says_what_was_not(checkpoint: Checkpoint) -> None:
    measured = _export(checkpoint).info.certificate
    assert measured["golden"]["count"] == 8
    assert measured["golden"]["max_abs_difference"] <= certificate.TOLERANCES["fp32"]
    assert measured["golden"]["top1_agreement"] == 1.0
    assert measured["images"] == measured["accuracy"] == measured["calibration"] == "not measured"


def test_images_are_certified_where_they_are_given(
    checkpoint: Checkpoint, golden_dataset: Dataset
) -> None:
    seen: list[tuple[int, int]] = []
    model = _export(
        checkpoint,
        dataset=golden_dataset,
        progress=lambda what, done, total: seen.append((done, total)),
    )
    measured = model.info.certificate["images"]
    assert (measured["data"], measured["count"]) == ("golden", 30)
    assert measured["max_abs_difference"] <= certificate.TOLERANCES["fp32"]
    assert (30, 30) in seen


def test_images_of_other_classes_are_refused(
    checkpoint: Checkpoint, golden_dataset: Dataset
) -> None:
    other = replace(golden_dataset, labels=("circle", "square", "star"))
    with pytest.raises(DatasetError, match=r"missing étoile, extra star"):
        _export(checkpoint, dataset=other)


def test_golden_answers_are_the_files_own(checkpoint: Checkpoint) -> None:
    model = _export(checkpoint)
    classify = Classifier(model.data)
    for image, expected in zip(model.info.golden.images, model.info.golden.file, strict=True):
        assert np.allclose(
            classify.graph_probabilities(golden_image(*image)), expected, rtol=0, atol=1e-6
        )


def test_file_that_differs_from_pytorch_is_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pipeline.build_graph

    def broken(given: Checkpoint, embedded: str, **options: Any) -> onnx.ModelProto:
        model = build(given, embedded, **options)
        weight = next(t for t in model.graph.initializer if t.name == "stages.3.0.weight")
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return model

    monkeypatch.setattr(pipeline, "build_graph", broken)
    with pytest.raises(GateError, match=r"differs from PyTorch by .* the tolerance is 0.0001"):
        _export(checkpoint)


def test_unknown_embedding_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="expected one of full, normalize, none"):
        _export(checkpoint, embedded="half")


def test_two_processes_give_the_same_bytes(tiny_weights: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nin_edge", "export", str(tiny_weights), "-o"]
    files = []
    for name in ("one", "two"):
        subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True)
        files.append((tmp_path / name / "tiny.fp32.onnx").read_bytes())
    assert files[0] == files[1]


def test_default_model_is_the_export_of_the_default_weights() -> None:
    """With ranges that are of images; how well these serve is measured in tests/parity."""
    data, info = read_model(DEFAULT_MODEL)
    checkpoint = Checkpoint.load(DEFAULT_WEIGHTS)
    (again,) = export_models(checkpoint, ExportOptions(precisions=("int8",)))
    shipped = onnx.load_from_string(data)
    graph = build_graph(checkpoint, info.embedded)
    rebuilt = quantize(checkpoint, graph, _ranges(shipped))
    assert _without_ranges(shipped.graph) == _without_ranges(rebuilt.graph)
    constants = [_constants(model) for model in (shipped, rebuilt)]
    assert constants[0].keys() == constants[1].keys()
    for name, value in constants[0].items():  # its ranges are rounded, and so may be a bias
        scale = value.dtype == np.float32
        tolerance = {"rtol": 1e-6, "atol": 0} if scale else {"rtol": 0, "atol": 1}
        assert np.allclose(value, constants[1][name], **tolerance), name
    assert info.golden.images == again.info.golden.images
    assert np.allclose(info.golden.pytorch, again.info.golden.pytorch, rtol=0, atol=1e-5)
    if dict(info.versions) == dict(again.info.versions):  # which name the processor's kernels too
        measured = {f"nin_edge.{name}" for name in ("certificate", "golden", "sha256")}
        one, other = (
            {entry.key: entry.value for entry in model.metadata_props if entry.key not in measured}
            for model in (shipped, onnx.load_from_string(again.data))
        )
        assert one == other
        classify = Classifier(DEFAULT_MODEL, provider="cpu", threads=1)
        answers = [classify.graph_probabilities(golden_image(*seed)) for seed in info.golden.images]
        assert np.allclose(info.golden.file, answers, rtol=0, atol=1e-6)


def _constants(model: onnx.ModelProto) -> dict[str, NDArray]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def _ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """What the 256 steps of each activation cover, by its tensor's name."""
    constants = _constants(model)
    ranges = {}
    for name, zero in constants.items():
        if zero.dtype == np.uint8:
            tensor = name.removesuffix("_zero_point")
            step = float(constants[f"{tensor}_scale"])
            ranges[tensor] = (-int(zero) * step, (255 - int(zero)) * step)
    return ranges


def _without_ranges(graph: onnx.GraphProto) -> bytes:
    """All but the tensors that the activations' ranges decide: their scales, and the biases."""
    measured = re.compile(
        r"(stages\.\d+(\.\d+)?|class_maps)_(scale|zero_point)|.*\.bias_quantized(_.*)?"
    )
    kept = [one for one in graph.initializer if not measured.fullmatch(one.name)]
    assert sum(one.name.endswith(".weight_quantized") for one in kept) == 9
    bare = onnx.GraphProto()
    bare.CopyFrom(graph)
    del bare.initializer[:]
    bare.initializer.extend(kept)
    return bare.SerializeToString(deterministic=True)


def test_processor_is_named_with_what_decides_its_kernels() -> None:
    assert re.fullmatch(r"[a-z0-9_]+( [a-z0-9_]+)*", processor())

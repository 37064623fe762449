"""Export from end to end: every combination through the runtime, choices, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, load_from_string, numpy_helper

from nin_edge import metrics, predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset, DatasetError
from nin_edge_export import PRECISIONS, ExportedModel, ExportOptions, export, export_models, parity
from nin_edge_export.golden import MARGIN
from nin_edge_export.parity import TOLERANCES, pytorch_probabilities
from nin_edge_runtime import Classifier, GateError, NinEdgeError
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.session import ModelSession
from nin_edge_runtime.verify import replay

SIZES = ((16, 16), (24, 24), (20, 33), (9, 12), (40, 16))  # a batch of five, one resized each way
INT8_TOLERANCE = 0.1  # of a probability of the tiny network, far from another class

# Each value of one with each of another: input, batch, and both opsets in turns.
COMBINATIONS = [
    ("full", None, 18),
    ("full", 1, 22),
    ("full", 4, 18),
    ("normalize", None, 22),
    ("normalize", 1, 18),
    ("normalize", 4, 22),
    ("none", None, 18),
    ("none", 1, 22),
    ("none", 4, 18),
]


# --- combinations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 1], ids=["colour", "grey"])
@pytest.mark.parametrize(("embedded", "batch", "opset"), COMBINATIONS)
def test_every_combination_agrees_with_pytorch(
    embedded: str,
    batch: int | None,
    opset: int,
    channels: int,
    checkpoint: Checkpoint,
    grey_checkpoint: Checkpoint,
) -> None:
    checkpoint = checkpoint if channels == 3 else grey_checkpoint
    images = [golden_image(seed, *size) for seed, size in enumerate(SIZES)]
    pixels = np.stack([checkpoint.preprocessing.resize(image) for image in images])
    expected = pytorch_probabilities(
        checkpoint, checkpoint.network(), pixels, np.arange(len(pixels))
    )
    ordered = np.sort(expected, axis=1)
    firm = ordered[:, -1] - ordered[:, -2] >= MARGIN
    models = export_models(checkpoint, ExportOptions(embedded=embedded, batch=batch, opset=opset))
    assert tuple(model.info.precision for model in models) == PRECISIONS
    for model in models:
        precision = model.info.precision
        assert model.info.embedded == embedded
        described = load_from_string(model.data)
        assert [operators.version for operators in described.opset_import] == [opset]
        for value in (*described.graph.input, *described.graph.output):
            first = value.type.tensor_type.shape.dim[0]
            assert (first.dim_value or first.dim_param) == (batch or "N")
        classify = Classifier(model.data, provider="cpu", threads=1)
        assert replay(classify).difference < TOLERANCES["fp32"]  # the machine that made it
        single = np.stack([classify(image).probabilities for image in images])
        batched = np.stack([found.probabilities for found in classify.batch(images)])
        for found in (single, batched):
            tolerance = min(TOLERANCES[precision], INT8_TOLERANCE)
            assert np.allclose(found, expected, rtol=0, atol=tolerance), precision
            assert (found.argmax(axis=1) == expected.argmax(axis=1))[firm].all()


# --- choices --------------------------------------------------------------------------------------


def test_temperature_is_fitted_on_the_holdout_alone(
    checkpoint: Checkpoint, dataset: Dataset, measured: dict[str, ExportedModel]
) -> None:
    logits = predict.logits(
        checkpoint.network(), checkpoint.preprocessing, dataset.images, dataset.holdout
    )
    expected = metrics.fit_temperature(logits, dataset.targets[dataset.holdout])
    assert expected != 1.0
    for model in measured.values():
        assert model.info.temperature == pytest.approx(expected)
    targets = dataset.targets.copy()
    targets[dataset.test] = 0
    (other,) = export_models(
        replace(checkpoint, temperature=None),
        ExportOptions(precisions=("fp32",)),
        dataset=replace(dataset, targets=targets),
    )
    assert other.info.temperature == measured["fp32"].info.temperature


def test_fitted_temperature_is_left_alone(checkpoint: Checkpoint, dataset: Dataset) -> None:
    (model,) = export_models(checkpoint, ExportOptions(precisions=("fp32",)), dataset=dataset)
    assert model.info.temperature == checkpoint.temperature == 1.5


def test_layers_in_float_leave_an_all_int8_graph_for_comparison(
    checkpoint: Checkpoint, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = export.plan_int8

    def kept(*given: Any, **options: Any) -> Any:
        return replace(plan(*given, **options), keep_float=("stages.3.3",))

    monkeypatch.setattr(export, "plan_int8", kept)
    (model,) = export_models(checkpoint, ExportOptions(precisions=("int8",)), dataset=dataset)
    assert model.info.certificate.float_layers == ("stages.3.3",)
    assert model.all_int8 is not None
    weights = {tensor.name for tensor in load_from_string(model.data).graph.initializer}
    assert "stages.3.3.weight" in weights
    whole = {tensor.name for tensor in load_from_string(model.all_int8).graph.initializer}
    assert "stages.3.3.weight_quantized" in whole
    ModelSession(model.all_int8, model.info, "all int8", provider="cpu")  # runs unsealed


@pytest.mark.parametrize(
    ("method", "embedded"), [("minmax", "full"), ("percentile", "normalize"), ("entropy", "none")]
)
def test_calibration_needs_no_recorded_ranges(
    method: str, embedded: str, checkpoint: Checkpoint, dataset: Dataset
) -> None:
    seen: list[tuple[str, int, int]] = []
    options = ExportOptions(precisions=("int8",), embedded=embedded, method=method)
    (model,) = export_models(
        replace(checkpoint, ranges={}),
        options,
        calibration=dataset,
        progress=lambda title, done, total: seen.append((title, done, total)),
    )
    found = model.info.certificate.quantization
    assert found is not None
    assert (found.method, found.ranges, found.images) == (method, "synthetic", len(dataset.train))
    assert seen[-1] == ("calibrating", len(dataset.train), len(dataset.train))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precisions": ("fp32", "fp8")}, "precision 'fp8': expected one of fp32, fp16, int8"),
        ({"embedded": "half"}, "embedded preprocessing 'half': expected one of full"),
        ({"precisions": ()}, "no precision: expected some of fp32, fp16, int8"),
        ({"max_drop": float("inf")}, "max drop inf: expected 0 to 100"),
        ({"method": "best"}, "method 'best': expected one of minmax"),
        ({"batch": 0}, "batch 0: expected 1 to 4096"),
        ({"batch": 4097}, "batch 4097: expected 1 to 4096"),
        ({"calibration_images": 0}, "0 calibration images: expected at least 1"),
        ({"max_drop": -0.1}, r"max drop -0\.1: expected 0 to 100"),
        ({"max_drop": float("nan")}, "max drop nan: expected 0 to 100"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ExportOptions(**options)


@pytest.mark.parametrize("opset", [17, 23])
def test_other_opsets_are_refused(checkpoint: Checkpoint, opset: int) -> None:
    with pytest.raises(ValueError, match=f"opset {opset}: expected 18 to 22"):
        export_models(checkpoint, ExportOptions(opset=opset))


@pytest.mark.parametrize("role", ["dataset", "calibration"])
def test_data_with_other_labels_is_refused(
    role: str, checkpoint: Checkpoint, dataset: Dataset
) -> None:
    other = replace(dataset, labels=("circle", "square", "star"))
    with pytest.raises(DatasetError, match=r"its labels are not the model's: .*étoile, .*star"):
        export_models(checkpoint, **{role: other})  # type: ignore[arg-type]


def test_calibration_needs_training_images(checkpoint: Checkpoint, dataset: Dataset) -> None:
    without = replace(dataset, train=dataset.train[:0])
    with pytest.raises(DatasetError, match="no training images to calibrate on"):
        export_models(checkpoint, calibration=without)


def test_int8_without_ranges_is_refused_and_other_precisions_are_not(
    checkpoint: Checkpoint,
) -> None:
    bare = replace(checkpoint, ranges={})
    with pytest.raises(NinEdgeError, match="--calibration DATA"):
        export_models(bare)
    assert len(export_models(bare, ExportOptions(precisions=("fp32", "fp16")))) == 2


def test_largest_drop_without_images_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(NinEdgeError, match="largest drop of accuracy is measured on images"):
        export_models(checkpoint, ExportOptions(max_drop=0.5))


def test_precisions_are_made_in_their_order(checkpoint: Checkpoint) -> None:
    models = export_models(checkpoint, ExportOptions(precisions=("int8", "fp32", "int8")))
    assert [model.info.precision for model in models] == ["fp32", "int8"]


def test_entropy_without_images_is_refused(checkpoint: Checkpoint) -> None:
    """The recorded ranges are extremes and percentiles: no file may claim another method."""
    options = ExportOptions(precisions=("int8",), method="entropy")
    with pytest.raises((NinEdgeError, ValueError), match="entropy"):
        export_models(checkpoint, options)


def test_firm_golden_samples_whose_prediction_changes_are_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8's probabilities may differ by anything, most of its firm predictions may not."""
    quantize = export.quantize

    def turned(checkpoint: Checkpoint, model: ModelProto, *given: Any) -> ModelProto:
        broken = _changed(model, "stages.6.6.weight", lambda values: np.roll(values, 1, axis=0))
        return quantize(checkpoint, broken, *given)

    monkeypatch.setattr(export, "quantize", turned)
    with pytest.raises(GateError, match=r"int8 model predicts other classes than PyTorch for \d "):
        export_models(checkpoint, ExportOptions(precisions=("int8",)))


def test_file_that_differs_from_pytorch_is_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = export.build_graph

    def broken(given: Checkpoint, embedded: str, **options: Any) -> ModelProto:
        model = build(given, embedded, **options)
        return _changed(model, "stages.3.0.weight", lambda values: values * np.float32(1.01))

    monkeypatch.setattr(export, "build_graph", broken)
    with pytest.raises(GateError, match=r"differs from PyTorch by .* the tolerance is 0.0001"):
        export_models(checkpoint, ExportOptions(precisions=("fp32",)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_graph_that_outputs_no_probabilities_is_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    build = export.build_graph

    def broken(given: Checkpoint, embedded: str, **options: Any) -> ModelProto:
        model = build(given, embedded, **options)
        return _changed(model, "stages.6.6.weight", lambda values: values * np.float32(value))

    monkeypatch.setattr(export, "build_graph", broken)
    with pytest.raises(GateError, match="the fp32 model: outputs NaN"):
        export_models(checkpoint, ExportOptions(precisions=("fp32",)))


def _changed(model: ModelProto, name: str, change: Any) -> ModelProto:
    """A copy of a model, one of its weights changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return copy


@pytest.mark.parametrize("precision", PRECISIONS)
def test_difference_beyond_the_tolerance_is_refused(
    precision: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.TOLERANCES, precision, 1e-12)
    with pytest.raises(GateError, match=f"the {precision} model differs from PyTorch by"):
        export_models(checkpoint, ExportOptions(precisions=(precision,)))

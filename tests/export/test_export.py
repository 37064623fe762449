"""Export from end to end: every combination through the runtime, and what is refused."""

from __future__ import annotations

import hashlib
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

from nin_edge import metrics
from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint
from nin_edge.data.datasets import Dataset, DatasetError
from nin_edge.trained_scores import TrainedScores
from nin_edge_export import (
    PRECISIONS,
    ExportedModel,
    ExportOptions,
    export_models,
    graph,
)
from nin_edge_export import certify as certificate
from nin_edge_export import export as pipeline
from nin_edge_export.certify import MARGIN, NOT_MEASURED, TOLERANCES
from nin_edge_runtime import Classifier, GateError, NinEdgeError, read_model
from nin_edge_runtime.golden import golden_image, replay

MODELS = Path(__file__).parent.parent / "data" / "make_models.py"
SIZES = ((16, 16), (24, 24), (20, 33), (9, 12), (40, 16))  # a batch of five, one resized each way
INT8_TOLERANCE = 0.1  # of a probability of the tiny network, far from another answer
FIGURE_TOLERANCE = 1e-6  # of a figure that is computed again from the same answers
LABELLED = 40


@pytest.fixture(scope="module", autouse=True)
def _one_export_of_a_network() -> Iterator[None]:
    """torch's exporter takes seconds, and sees neither embedding, batch nor opset: run it once."""
    simplified, known = graph._simplified, {}

    def remembered(module: torch.nn.Module, example: torch.Tensor) -> ModelProto:
        digest = hashlib.sha256()
        for name, value in module.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
        key = (tuple(example.shape), digest.hexdigest())
        if key not in known:
            known[key] = simplified(module, example)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_simplified", remembered)
        yield


@pytest.fixture(scope="module")
def checkpoints(tiny_weights: Path) -> dict[int, Checkpoint]:
    """By number of channels."""
    make: Callable[[int], Checkpoint] = runpy.run_path(str(MODELS))["tiny_checkpoint"]
    return {3: Checkpoint.load(tiny_weights), 1: make(1)}


@pytest.fixture(scope="module")
def checkpoint(checkpoints: dict[int, Checkpoint]) -> Checkpoint:
    return checkpoints[3]


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint) -> Dataset:
    """Synthetic images; three in four have the label that the network gives them."""
    images = np.stack([golden_image(4000 + seed, 16, 16) for seed in range(LABELLED)])
    every = np.arange(LABELLED)
    answers = certificate.pytorch_answers(checkpoint, checkpoint.network(), images, every)
    targets = answers.argmax(axis=1)
    targets[::4] = (targets[::4] + 1) % len(checkpoint.labels)
    return Dataset(
        name="synthetic",
        labels=checkpoint.labels,
        images=images,
        targets=targets.astype(np.int64),
        names=tuple(map(str, every)),
        train=every[:16],
        holdout=every[16:28],
        test=every[28:],
        unreadable=(),
        fingerprint="",
    )


@pytest.fixture(scope="module")
def measured(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, ExportedModel]:
    """Every precision, with data for everything and no fitted temperature."""
    options = ExportOptions(max_drop=100.0, calibration_images=10)
    models = export_models(
        replace(checkpoint, temperature=None), options, dataset=dataset, calibration=dataset
    )
    return {model.info.precision: model for model in models}


# --- combinations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 1], ids=["colour", "grey"])
@pytest.mark.parametrize("embedded", ["full", "normalize", "none"])
@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("opset", [18, 22])
def test_every_combination_answers_like_pytorch(
    channels: int,
    embedded: str,
    batch: int | None,
    opset: int,
    checkpoints: dict[int, Checkpoint],
) -> None:
    checkpoint = checkpoints[channels]
    images = [golden_image(seed, *size) for seed, size in enumerate(SIZES)]
    pixels = np.stack([checkpoint.preprocessing.resize(image) for image in images])
    expected = certificate.pytorch_answers(
        checkpoint, checkpoint.network(), pixels, np.arange(len(pixels))
    )
    ordered = np.sort(expected, axis=1)
    firm = ordered[:, -1] - ordered[:, -2] >= MARGIN
    models = export_models(checkpoint, ExportOptions(embedded=embedded, batch=batch, opset=opset))
    assert tuple(model.info.precision for model in models) == PRECISIONS
    for model in models:
        precision = model.info.precision
        assert model.info.embedded == embedded
        classify = Classifier(model.data, provider="cpu", threads=1)
        assert replay(classify).difference < TOLERANCES["fp32"]  # the machine that made it
        single = np.stack([classify(image).probabilities for image in images])
        batched = np.stack([found.probabilities for found in classify.batch(images)])
        for found in (single, batched):
            tolerance = min(TOLERANCES[precision], INT8_TOLERANCE)
            assert np.allclose(found, expected, rtol=0, atol=tolerance), precision
            assert (found.argmax(axis=1) == expected.argmax(axis=1))[firm].all()


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_batch_is_written_into_inputs_and_outputs(
    checkpoint: Checkpoint, batch: int | None
) -> None:
    from onnx import load_from_string

    for model in export_models(checkpoint, ExportOptions(batch=batch)):
        described = load_from_string(model.data).graph
        for value in (*described.input, *described.output):
            first = value.type.tensor_type.shape.dim[0]
            assert (first.dim_value or first.dim_param) == (batch or "N")


# --- the certificate ------------------------------------------------------------------------------


def test_each_file_certifies_its_own_answers(
    measured: dict[str, ExportedModel], dataset: Dataset
) -> None:
    targets = dataset.targets[dataset.test]
    assert tuple(measured) == PRECISIONS
    for precision, model in measured.items():
        found = model.info.certificate
        answers, reference = model.answers, model.reference
        assert answers is not None
        assert reference is not None
        again = Classifier(model.data, provider="cpu").batch(list(dataset.images[dataset.test]))
        assert np.allclose(
            answers, [each.probabilities for each in again], rtol=0, atol=FIGURE_TOLERANCE
        )
        common = {"data": "synthetic", "images": len(targets), "measured_with": "this file"}
        top1 = float((answers.argmax(axis=1) == targets).mean())
        assert found["accuracy"] == {**common, "top1": pytest.approx(top1)}
        assert found["images"] == {
            "data": "synthetic",
            "count": len(targets),
            "max_abs_difference": pytest.approx(np.abs(answers - reference).max(), rel=0.05),
            "top1_agreement": (answers.argmax(axis=1) == reference.argmax(axis=1)).mean(),
            "tolerance": TOLERANCES[precision],
        }
        calibration = found["calibration"]
        after = metrics.expected_calibration_error(answers, targets)
        plain = answers.astype(np.float64) ** model.info.temperature
        before = metrics.expected_calibration_error(
            plain / plain.sum(axis=1, keepdims=True), targets
        )
        assert calibration == {
            **common,
            "ece_before": pytest.approx(before, abs=FIGURE_TOLERANCE),
            "ece_after": pytest.approx(after, abs=FIGURE_TOLERANCE),
        }
        holdout = dataset.targets[dataset.holdout]
        again = Classifier(model.data, provider="cpu").batch(list(dataset.images[dataset.holdout]))
        scores = np.array([each.score for each in again])
        right = np.array([each.probabilities.argmax() for each in again]) == holdout
        thresholds = dict(found["thresholds"])
        for row in thresholds.pop("answers"):
            answered = scores >= row["min_score"]
            assert row["coverage"] == pytest.approx(answered.mean())
            assert row["top1"] == (right[answered].mean() if answered.any() else None)
        assert thresholds == {
            **{"data": "synthetic", "split": "holdout", "images": len(holdout)},
            **{"measured_with": "this file", "temperature": "fitted on these images"},
        }
        assert found["golden"]["tolerance"] == TOLERANCES[precision]
        assert found["golden"]["max_abs_difference"] <= TOLERANCES[precision]


def test_certificate_names_the_layers_in_float(measured: dict[str, ExportedModel]) -> None:
    layers = {precision: m.info.certificate["float_layers"] for precision, m in measured.items()}
    assert len(layers["fp32"]) == 9
    assert layers["fp16"] == []
    plan = measured["int8"].plan
    assert plan is not None
    assert layers["int8"] == list(plan.keep_float)
    assert set(plan.sensitivity) == set(layers["fp32"])


def test_certificate_says_where_int8s_ranges_are_from(
    checkpoint: Checkpoint, measured: dict[str, ExportedModel]
) -> None:
    found = measured["int8"].info.certificate
    assert found["quantization"] == {"method": "minmax", "ranges": "synthetic", "images": 10}
    assert found["budget"]["holdout_images"] == 12
    assert found["budget"]["max_drop_points"] == 100.0
    for precision in ("fp32", "fp16"):
        assert "quantization" not in measured[precision].info.certificate
    options = ExportOptions(precisions=("int8",), method="percentile")
    (model,) = export_models(checkpoint, options)
    assert model.info.certificate["quantization"] == {
        "method": "percentile",
        "ranges": "recorded at the end of training",
    }


def test_what_was_not_measured_is_said_to_be_so(checkpoint: Checkpoint) -> None:
    for model in export_models(checkpoint):
        found = model.info.certificate
        for part in ("images", "accuracy", "calibration", "thresholds"):
            assert found[part] == NOT_MEASURED
        assert model.answers is model.reference is model.plan is model.all_int8 is None
        if model.info.precision == "int8":
            assert found["budget"] == NOT_MEASURED


def test_trainings_figures_stand_where_there_is_no_data(checkpoint: Checkpoint) -> None:
    figures = {
        **{"test_top1": 0.8, "test_images": 100},
        **{"test_ece": 0.02, "test_ece_uncalibrated": 0.07},
    }
    trained = replace(checkpoint, trained_scores=TrainedScores.from_json(figures))
    common = {"data": "golden images", "images": 100, "measured_with": "PyTorch, fp32"}
    for temperature, calibration in (
        (1.5, {**common, "ece_before": 0.07, "ece_after": 0.02}),
        (None, NOT_MEASURED),
    ):
        options = ExportOptions(precisions=("fp32",))
        (model,) = export_models(replace(trained, temperature=temperature), options)
        assert model.info.certificate["accuracy"] == {**common, "top1": 0.8}
        assert model.info.certificate["calibration"] == calibration
        assert model.info.temperature == (temperature or 1.0)


@pytest.mark.parametrize("tested", [True, False])
def test_trainings_thresholds_stand_where_there_is_no_data(
    checkpoint: Checkpoint, tested: bool
) -> None:
    figures = {
        **{"holdout_images": 30, "holdout_top1": 0.6},
        **{"holdout_coverage_at_0.5": 0.9, "holdout_top1_at_0.5": 0.7},
        "holdout_coverage_at_0.99": 0.0,
        **({"test_top1": 0.8, "test_images": 9} if tested else {}),
        **({"test_ece": 0.02, "test_ece_uncalibrated": 0.07} if tested else {}),
    }
    options = ExportOptions(precisions=("fp32",))
    for temperature in (1.5, None):
        scores = TrainedScores.from_json(figures)
        trained = replace(checkpoint, trained_scores=scores, temperature=temperature)
        (model,) = export_models(trained, options)
        expected = {
            **{"data": "golden images", "split": "holdout", "images": 30},
            **{"measured_with": "PyTorch, fp32", "temperature": "fitted on these images"},
            "answers": [
                {"min_score": 0.5, "coverage": 0.9, "top1": 0.7},
                {"min_score": 0.99, "coverage": 0.0, "top1": None},
            ],
        }
        assert model.info.certificate["thresholds"] == (expected if temperature else NOT_MEASURED)


@pytest.mark.parametrize(
    ("trained_on", "fitted"),
    [
        ("a" * 64, "fitted on these images"),
        ("b" * 64, "fitted in training"),
        ("", "fitted in training"),
    ],
)
def test_certificate_says_where_the_temperature_is_from(
    checkpoint: Checkpoint, dataset: Dataset, trained_on: str, fitted: str
) -> None:
    given = replace(checkpoint, data=replace(checkpoint.data, fingerprint=trained_on))
    data = replace(dataset, fingerprint="a" * 64 if trained_on else "")
    (model,) = export_models(given, ExportOptions(precisions=("fp32",)), dataset=data)
    assert model.info.certificate["thresholds"]["temperature"] == fitted


def test_temperature_is_fitted_on_the_holdout_alone(
    checkpoint: Checkpoint, dataset: Dataset, measured: dict[str, ExportedModel]
) -> None:
    logits = evaluate.logits(
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


def test_layers_in_float_leave_an_all_int8_file_for_comparison(
    checkpoint: Checkpoint, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = pipeline.plan_int8

    def kept(*given: Any) -> Any:
        return replace(plan(*given), keep_float=("stages.3.3",))

    monkeypatch.setattr(pipeline, "plan_int8", kept)
    (model,) = export_models(checkpoint, ExportOptions(precisions=("int8",)), dataset=dataset)
    assert model.info.certificate["float_layers"] == ["stages.3.3"]
    assert model.all_int8 is not None
    assert read_model(model.all_int8)[1].precision == "int8"
    assert len(model.all_int8) != len(model.data)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("embedded", ["full", "normalize", "none"])
def test_calibration_needs_no_recorded_ranges(
    method: str, embedded: str, checkpoint: Checkpoint, dataset: Dataset
) -> None:
    seen: list[tuple[str, int, int]] = []
    options = ExportOptions(precisions=("int8",), embedded=embedded, method=method)
    (model,) = export_models(
        replace(checkpoint, ranges={}),
        options,
        calibration=dataset,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    found = model.info.certificate["quantization"]
    assert found == {"method": method, "ranges": "synthetic", "images": len(dataset.train)}
    assert seen[-1] == ("calibrating", len(dataset.train), len(dataset.train))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precisions": ("fp32", "fp8")}, "precision 'fp8': expected one of fp32, fp16, int8"),
        ({"embedded": "half"}, "embedded preprocessing 'half': expected one of full"),
        ({"method": "best"}, "calibration method 'best': expected one of minmax"),
        ({"batch": 0}, "batch 0: expected 1 to 4096"),
        ({"batch": 4097}, "batch 4097: expected 1 to 4096"),
        ({"calibration_images": 0}, "0 calibration images: expected at least 1"),
        ({"max_drop": -0.1}, r"max drop -0\.1: expected at least 0"),
        ({"max_drop": float("nan")}, "max drop nan: expected at least 0"),
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
    with pytest.raises(DatasetError, match="without étoile, with star besides"):
        export_models(checkpoint, **{role: other})  # type: ignore[arg-type]


def test_int8_without_ranges_is_refused_and_other_precisions_are_not(
    checkpoint: Checkpoint,
) -> None:
    bare = replace(checkpoint, ranges={})
    with pytest.raises(NinEdgeError, match="--calibration DATA"):
        export_models(bare)
    assert len(export_models(bare, ExportOptions(precisions=("fp32", "fp16")))) == 2


def test_entropy_without_images_is_refused(checkpoint: Checkpoint) -> None:
    """The recorded ranges are extremes and percentiles: no file may claim another method."""
    options = ExportOptions(precisions=("int8",), method="entropy")
    with pytest.raises((NinEdgeError, ValueError), match="entropy"):
        export_models(checkpoint, options)


@pytest.mark.parametrize(("changed", "refused"), [(0, False), (1, False), (4, False), (5, True)])
def test_a_few_firm_golden_answers_may_change_in_int8(changed: int, refused: bool) -> None:
    """The samples look like nothing that a network was trained on."""
    images = tuple((seed, 16, 16) for seed in range(8))
    golden = certificate.Golden(1, images, ((0.7, 0.2, 0.1),) * 8)
    answers = iter([(0.3, 0.4, 0.3)] * changed + [(0.6, 0.3, 0.1)] * (8 - changed))
    file: Any = SimpleNamespace(
        info=SimpleNamespace(precision="int8"), graph_probabilities=lambda image: next(answers)
    )
    if refused:
        with pytest.raises(GateError, match=f"other answers than PyTorch to {changed} of 8 golden"):
            certificate.check_golden(file, golden)
    else:
        _, figures = certificate.check_golden(file, golden)
        assert figures["top1_agreement"] == 1 - changed / 8
        assert figures["firm_answers"] == 8


def test_firm_golden_answers_that_change_are_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8's probabilities may differ by anything, most of its firm answers may not."""
    quantize = pipeline.quantize

    def turned(checkpoint: Checkpoint, model: ModelProto, *given: Any) -> ModelProto:
        broken = ModelProto()
        broken.CopyFrom(model)
        for tensor in broken.graph.initializer:
            if tensor.name == "stages.6.6.weight":
                values = np.roll(numpy_helper.to_array(tensor), 1, axis=0)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return quantize(checkpoint, broken, *given)

    monkeypatch.setattr(pipeline, "quantize", turned)
    with pytest.raises(GateError, match=r"int8 model gives other answers than PyTorch to \d of"):
        export_models(checkpoint, ExportOptions(precisions=("int8",)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_difference_beyond_the_tolerance_is_refused(
    precision: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(certificate.TOLERANCES, precision, 1e-12)
    with pytest.raises(GateError, match=f"the {precision} model differs from PyTorch by"):
        export_models(checkpoint, ExportOptions(precisions=(precision,)))

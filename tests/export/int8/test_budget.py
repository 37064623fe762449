"""The accuracy budget: which convolutions go back to float, and what the figures say."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge_export import ExportOptions, export_models
from nin_edge_export.graph import build_graph, network_nodes
from nin_edge_export.int8.activation_ranges import Ranges, calibrate
from nin_edge_export.int8.budget import Int8Plan, plan_int8
from nin_edge_export.int8.quantize import quantize
from nin_edge_export.parity import session_probabilities
from nin_edge_export.seal import describe
from nin_edge_runtime import GateError
from nin_edge_runtime.golden import FORMULA, golden_image
from nin_edge_runtime.model_file import GoldenSamples
from nin_edge_runtime.model_file.certificate import Budget
from nin_edge_runtime.session import ModelSession

HOLDOUT, TEST = 60, 20
ROUNDING = 1e-4  # of the drop in points, as it is stored
HUGE = 1000.0  # a weight beside which all others round to nothing

Measurer = Callable[[ModelProto, str], NDArray[np.floating]]
Quantizer = Callable[[Collection[str]], ModelProto]


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    """The tiny network with its last biases moved: it predicts all three classes."""
    checkpoint, images = Checkpoint.load(tiny_weights), _images(HOLDOUT)
    weights = {name: value.clone() for name, value in checkpoint.weights.items()}
    logits = predict.logits(
        checkpoint.network(), checkpoint.preprocessing, images, np.arange(len(images))
    )
    weights["stages.6.6.bias"] -= torch.from_numpy(logits.mean(axis=0))
    return replace(checkpoint, weights=weights)


@pytest.fixture(scope="module")
def graph(checkpoint: Checkpoint) -> ModelProto:
    return build_graph(checkpoint, "none")


@pytest.fixture(scope="module")
def probabilities(checkpoint: Checkpoint) -> Measurer:
    """A model's probabilities for the hold-out."""
    golden = GoldenSamples(FORMULA, (), (), ())
    info = describe(checkpoint, precision="int8", embedded="none", golden=golden)

    def measure(model: ModelProto, title: str) -> NDArray[np.floating]:
        session = ModelSession(model.SerializeToString(), info, title, provider="cpu", threads=1)
        return session_probabilities(session, _images(HOLDOUT), np.arange(HOLDOUT))

    return measure


@cache
def _images(count: int) -> NDArray[np.uint8]:
    return np.stack([golden_image(3000 + seed, 16, 16) for seed in range(count)])


def _ranges(checkpoint: Checkpoint, model: ModelProto) -> Ranges:
    return calibrate(checkpoint, model, [_images(30)], "minmax")


@pytest.fixture(scope="module")
def targets(graph: ModelProto, probabilities: Measurer) -> NDArray[np.int64]:
    """The classes that the fp32 model predicts: its own accuracy is 100%."""
    return probabilities(graph, "fp32").argmax(axis=1)


@pytest.fixture(scope="module")
def ranges(checkpoint: Checkpoint, graph: ModelProto) -> Ranges:
    return _ranges(checkpoint, graph)


@pytest.fixture(scope="module")
def quantized(checkpoint: Checkpoint, graph: ModelProto, ranges: Ranges) -> Quantizer:
    return partial(quantize, checkpoint, graph, ranges)


def _convolutions(graph: ModelProto) -> list[str]:
    return [node.name for node in network_nodes(graph) if node.op_type == "Conv"]


def _fragile(graph: ModelProto, before: str, fragile: str) -> ModelProto:
    """One input of a convolution is always 0 and has a huge weight: only int8 minds."""
    copy = ModelProto()
    copy.CopyFrom(graph)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name in (f"{before}.weight", f"{before}.bias"):
            values[0] = 0
        elif tensor.name == f"{fragile}.weight":
            values[:, 0] = HUGE
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def _top1(probabilities: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    return float((probabilities.argmax(axis=1) == targets).mean())


@pytest.fixture(scope="module")
def plan(
    graph: ModelProto,
    quantized: Quantizer,
    probabilities: Measurer,
    targets: NDArray[np.int64],
) -> Int8Plan:
    return plan_int8(graph, quantized, probabilities, targets, max_drop=None, data="answers")


def test_every_class_is_predicted(targets: NDArray[np.int64]) -> None:
    assert np.bincount(targets).min() > 0


def test_every_convolution_has_a_sensitivity(plan: Int8Plan, graph: ModelProto) -> None:
    assert list(plan.sensitivity) == _convolutions(graph)
    values = np.array(list(plan.sensitivity.values()))
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert values.max() > 0


def test_without_a_budget_everything_is_quantised_and_measured(
    plan: Int8Plan, quantized: Quantizer, probabilities: Measurer, targets: NDArray[np.int64]
) -> None:
    assert plan.keep_float == ()
    int8 = _top1(probabilities(quantized(()), "int8"), targets)
    drop = pytest.approx(100 * (1 - int8), abs=ROUNDING)
    assert plan.budget == Budget(HOLDOUT, 1.0, int8, drop, None)


@pytest.mark.parametrize(
    ("before", "fragile"),
    [("stages.0.0", "stages.0.3"), ("stages.3.0", "stages.3.3"), ("stages.6.0", "stages.6.3")],
)
def test_fragile_convolution_is_the_first_to_go_back(
    before: str, fragile: str, checkpoint: Checkpoint, graph: ModelProto, probabilities: Measurer
) -> None:
    model = _fragile(graph, before, fragile)
    targets = probabilities(model, "fp32").argmax(axis=1)
    quantized = partial(quantize, checkpoint, model, _ranges(checkpoint, model))
    whole = 100 * (1 - _top1(probabilities(quantized(), "int8"), targets))
    better = 100 * (1 - _top1(probabilities(quantized((fragile,)), "int8"), targets))
    assert better < whole
    budget = (better + whole) / 2
    plan = plan_int8(model, quantized, probabilities, targets, max_drop=budget, data="answers")
    assert max(plan.sensitivity, key=lambda name: plan.sensitivity[name]) == fragile
    assert plan.keep_float == (fragile,)
    assert plan.budget.drop_points == pytest.approx(better, abs=ROUNDING)
    assert plan.budget.drop_points <= budget == plan.budget.max_drop_points


def test_no_drop_at_all_is_kept_or_refused(
    graph: ModelProto, quantized: Quantizer, probabilities: Measurer, targets: NDArray[np.int64]
) -> None:
    try:
        plan = plan_int8(graph, quantized, probabilities, targets, max_drop=0, data="answers")
    except GateError as error:
        assert "the budget is 0" in str(error)  # noqa: PT017
    else:
        assert plan.budget.drop_points <= 0
        assert len(plan.keep_float) < len(_convolutions(graph))
        again = _top1(probabilities(quantized(plan.keep_float), "int8"), targets)
        assert again == plan.budget.int8_top1 >= plan.budget.fp32_top1


def test_budget_that_cannot_be_met_is_refused(
    checkpoint: Checkpoint,
    graph: ModelProto,
    ranges: Ranges,
    probabilities: Measurer,
    targets: NDArray[np.int64],
) -> None:
    absurd = {name: (HUGE * HUGE * low, HUGE * HUGE * high) for name, (low, high) in ranges.items()}
    quantized = partial(quantize, checkpoint, graph, absurd)
    with pytest.raises(GateError, match=r"points on the hold-out of answers .* the budget is 1$"):
        plan_int8(graph, quantized, probabilities, targets, max_drop=1, data="answers")


def test_every_measurement_is_announced(
    graph: ModelProto, quantized: Quantizer, probabilities: Measurer, targets: NDArray[np.int64]
) -> None:
    titles: list[str] = []

    def announced(model: ModelProto, title: str) -> NDArray[np.floating]:
        titles.append(title)
        return probabilities(model, title)

    plan_int8(graph, quantized, announced, targets, max_drop=None, data="answers")
    alone = [f"{name} in int8" for name in _convolutions(graph)]
    assert titles == ["fp32 on the hold-out", *alone, "int8"]


def test_choices_never_see_the_test_split(
    checkpoint: Checkpoint, make_dataset: Callable[..., Dataset], targets: NDArray[np.int64]
) -> None:
    images = _images(HOLDOUT + TEST).copy()
    every = np.concatenate([targets, np.zeros(TEST, np.int64)])
    splits = {"holdout": slice(0, HOLDOUT), "test": slice(HOLDOUT, None)}
    plans = []
    for _ in range(2):
        dataset = make_dataset("answers", checkpoint.labels, images, every, **splits)
        options = ExportOptions(precisions=("int8",), max_drop=100)
        (model,) = export_models(checkpoint, options, dataset=dataset)
        plans.append(model.plan)
        images[HOLDOUT:] = np.random.default_rng(0).integers(0, 256, images[HOLDOUT:].shape)
        every[HOLDOUT:] = 1
    assert plans[0] is not None
    assert plans[0] == plans[1]

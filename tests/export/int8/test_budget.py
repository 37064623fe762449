"""The accuracy budget: which convolutions go back to float, and what the figures say."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge_export.certify import choose_golden
from nin_edge_export.graph import build_graph, network_nodes
from nin_edge_export.int8.budget import Int8Plan, plan_int8
from nin_edge_export.int8.quantize import Ranges, calibrate, quantize
from nin_edge_export.seal import seal
from nin_edge_runtime import Classifier, GateError
from nin_edge_runtime.golden import golden_image

HOLDOUT, TEST = 60, 20
ROUNDING = 1e-4  # of the drop in points, as it is stored
HUGE = 1000.0  # a weight beside which all others round to nothing

Opener = Callable[[ModelProto], Classifier]
Quantizer = Callable[[Collection[str]], ModelProto]


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    """The tiny network with its last biases moved: its answers are of all three classes."""
    checkpoint, images = Checkpoint.load(tiny_weights), _images(HOLDOUT)
    weights = {name: value.clone() for name, value in checkpoint.weights.items()}
    logits = evaluate.logits(
        checkpoint.network(), checkpoint.preprocessing, images, np.arange(len(images))
    )
    weights["stages.6.6.bias"] -= torch.from_numpy(logits.mean(axis=0))
    return replace(checkpoint, weights=weights)


@pytest.fixture(scope="module")
def graph(checkpoint: Checkpoint) -> ModelProto:
    return build_graph(checkpoint, "none")


@pytest.fixture(scope="module")
def opened(checkpoint: Checkpoint) -> Opener:
    golden = choose_golden(checkpoint, checkpoint.network())

    def load(model: ModelProto) -> Classifier:
        file = seal(
            model,
            checkpoint,
            precision="int8",
            embedded="none",
            golden=golden,
            answers=golden.pytorch,
            certificate={},
        )
        return Classifier(file, provider="cpu", threads=1)

    return load


def _images(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([golden_image(3000 + seed, 16, 16) for seed in range(count)])


def _ranges(checkpoint: Checkpoint, model: ModelProto) -> Ranges:
    return calibrate(checkpoint, model, [_images(30)], "minmax")


def _labelled(classify: Classifier, labels: tuple[str, ...]) -> Dataset:
    """Images with the labels that a network gives them: its own accuracy is 100%."""
    images = _images(HOLDOUT + TEST)
    every = np.arange(len(images))
    answers = np.stack([found.probabilities for found in classify.batch(list(images))])
    return Dataset(
        name="answers",
        labels=labels,
        images=images,
        targets=answers.argmax(axis=1).astype(np.int64),
        names=tuple(map(str, every)),
        train=every[:0],
        holdout=every[:HOLDOUT],
        test=every[HOLDOUT:],
        unreadable=(),
        fingerprint="",
    )


@pytest.fixture(scope="module")
def dataset(checkpoint: Checkpoint, graph: ModelProto, opened: Opener) -> Dataset:
    return _labelled(opened(graph), checkpoint.labels)


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


def _top1(classify: Classifier, dataset: Dataset) -> float:
    found = [classify(image).label for image in dataset.images[dataset.holdout]]
    right = [dataset.labels[target] for target in dataset.targets[dataset.holdout]]
    return float(np.mean([a == b for a, b in zip(found, right, strict=True)]))


@pytest.fixture(scope="module")
def plan(graph: ModelProto, quantized: Quantizer, opened: Opener, dataset: Dataset) -> Int8Plan:
    return plan_int8(graph, quantized, opened, dataset, None)


def test_answers_are_of_every_class(dataset: Dataset) -> None:
    assert np.bincount(dataset.targets[dataset.holdout]).min() > 0


def test_every_convolution_has_a_sensitivity(plan: Int8Plan, graph: ModelProto) -> None:
    assert list(plan.sensitivity) == _convolutions(graph)
    values = np.array(list(plan.sensitivity.values()))
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert values.max() > 0


def test_without_a_budget_everything_is_quantised_and_measured(
    plan: Int8Plan, quantized: Quantizer, opened: Opener, dataset: Dataset
) -> None:
    assert plan.keep_float == ()
    int8 = _top1(opened(quantized(())), dataset)
    assert plan.figures == {
        "holdout_images": HOLDOUT,
        "fp32_top1": 1.0,
        "int8_top1": int8,
        "drop_points": pytest.approx(100 * (1 - int8), abs=ROUNDING),
        "max_drop_points": None,
    }


@pytest.mark.parametrize(
    ("before", "fragile"),
    [("stages.0.0", "stages.0.3"), ("stages.3.0", "stages.3.3"), ("stages.6.0", "stages.6.3")],
)
def test_fragile_convolution_is_the_first_to_go_back(
    before: str, fragile: str, checkpoint: Checkpoint, graph: ModelProto, opened: Opener
) -> None:
    model = _fragile(graph, before, fragile)
    dataset = _labelled(opened(model), checkpoint.labels)
    quantized = partial(quantize, checkpoint, model, _ranges(checkpoint, model))
    whole = 100 * (1 - _top1(opened(quantized()), dataset))
    better = 100 * (1 - _top1(opened(quantized((fragile,))), dataset))
    assert better < whole
    plan = plan_int8(model, quantized, opened, dataset, (better + whole) / 2)
    assert max(plan.sensitivity, key=lambda name: plan.sensitivity[name]) == fragile
    assert plan.keep_float == (fragile,)
    assert plan.figures["drop_points"] == pytest.approx(better, abs=ROUNDING)
    assert plan.figures["drop_points"] <= plan.figures["max_drop_points"] == (better + whole) / 2


def test_no_drop_at_all_is_kept_or_refused(
    graph: ModelProto, quantized: Quantizer, opened: Opener, dataset: Dataset
) -> None:
    try:
        plan = plan_int8(graph, quantized, opened, dataset, 0)
    except GateError as error:
        assert "the budget is 0" in str(error)  # noqa: PT017
    else:
        assert plan.figures["drop_points"] <= 0
        assert len(plan.keep_float) < len(_convolutions(graph))
        again = _top1(opened(quantized(plan.keep_float)), dataset)
        assert again == plan.figures["int8_top1"] >= plan.figures["fp32_top1"]


def test_budget_that_cannot_be_met_is_refused(
    checkpoint: Checkpoint, graph: ModelProto, ranges: Ranges, opened: Opener, dataset: Dataset
) -> None:
    absurd = {name: (HUGE * HUGE * low, HUGE * HUGE * high) for name, (low, high) in ranges.items()}
    with pytest.raises(GateError, match=r"points on the hold-out of answers .* the budget is 1$"):
        plan_int8(graph, partial(quantize, checkpoint, graph, absurd), opened, dataset, 1)


def test_choices_never_see_the_test_split(
    plan: Int8Plan,
    graph: ModelProto,
    quantized: Quantizer,
    opened: Opener,
    dataset: Dataset,
    rng: np.random.Generator,
) -> None:
    images, targets = dataset.images.copy(), dataset.targets.copy()
    images[dataset.test] = rng.integers(0, 256, images[dataset.test].shape)
    targets[dataset.test] = (targets[dataset.test] + 1) % len(dataset.labels)
    other = replace(dataset, images=images, targets=targets)
    assert plan_int8(graph, quantized, opened, other, None) == plan


def test_progress_counts_every_measurement(
    graph: ModelProto, quantized: Quantizer, opened: Opener, dataset: Dataset
) -> None:
    seen: list[tuple[str, int, int]] = []
    plan_int8(
        graph,
        quantized,
        opened,
        dataset,
        None,
        lambda what, done, total: seen.append((what, done, total)),
    )
    ends = [what for what, done, total in seen if done == total == HOLDOUT]
    alone = [f"{name} in int8" for name in _convolutions(graph)]
    assert ends == ["fp32 on the hold-out", *alone, "int8"]

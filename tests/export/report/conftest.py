"""What the report's tests share: a report on four images with hand-made probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge_export import ExportedModel, Int8Plan
from nin_edge_export.report import Report, measure
from nin_edge_runtime.model_file.certificate import Agreement, Budget, Threshold, Thresholds

# Four test images: their classes, and the probabilities of the file and of PyTorch.
TARGETS = np.array([0, 1, 2, 2])
REFERENCE = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.5, 0.2, 0.3], [0.1, 0.5, 0.4]])
PROBABILITIES = np.float32([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]])

THRESHOLDS = Thresholds(
    *("four", "holdout", 1, "this file", "fitted on these images"),
    answers=(Threshold(0.5, 1.0, 0.75), Threshold(0.9, 0.0, None)),
)


@pytest.fixture(scope="session")
def four_images(checkpoint: Checkpoint) -> Dataset:
    """Two images to train on, then the four to test."""
    every, rng = np.arange(6), np.random.default_rng(0)
    return Dataset(
        name="four",
        labels=checkpoint.labels,
        images=rng.integers(0, 256, size=(6, 16, 16, 3), dtype=np.uint8),
        targets=np.concatenate([[0, 0], TARGETS]),
        names=tuple(f"image-{index}.png" for index in every),
        train=every[:1],
        holdout=every[1:2],
        test=every[2:],
        unreadable=(),
        fingerprint="",
    )


def with_thresholds(model: ExportedModel, thresholds: Thresholds) -> ExportedModel:
    certificate = replace(model.info.certificate, thresholds=thresholds)
    return replace(model, info=replace(model.info, certificate=certificate))


def certified(
    model: ExportedModel, labels: tuple[str, ...], data: str = "four", **fields: Any
) -> ExportedModel:
    """A model as if it had been measured on the four images."""
    model = with_thresholds(model, THRESHOLDS)
    images = Agreement(data, 4, 0.3, 0.5, 1.0)
    info = replace(
        model.info, certificate=replace(model.info.certificate, images=images), labels=labels
    )
    return replace(model, info=info, probabilities=PROBABILITIES, reference=REFERENCE, **fields)


def int8_plan(*kept: str) -> Int8Plan:
    budget = Budget(1, fp32_top1=1.0, int8_top1=0.998, drop_points=0.2, max_drop_points=0.3)
    return Int8Plan(kept, {"stages.0.0": 2e-3, "stages.0.3": 1e-3}, budget)


@pytest.fixture(scope="session")
def four_models(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint
) -> list[ExportedModel]:
    """All precisions with the hand-made probabilities; int8 keeps a convolution in float."""
    *others, int8 = unmeasured.values()
    plan = {"plan": int8_plan("stages.0.0"), "all_int8": int8.data}
    return [
        *(certified(model, checkpoint.labels) for model in others),
        certified(int8, checkpoint.labels, **plan),
    ]


@pytest.fixture(scope="session")
def report(
    four_models: list[ExportedModel], checkpoint: Checkpoint, four_images: Dataset
) -> Report:
    return measure(four_models, checkpoint, name="tiny", dataset=four_images, seconds=0)


@pytest.fixture(scope="session")
def unmeasured_report(unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint) -> Report:
    return measure(list(unmeasured.values()), checkpoint, name="tiny", seconds=0)

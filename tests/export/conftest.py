"""What the export tests share: the tiny network, labelled images, and one export of each kind."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge_export import ExportedModel, ExportOptions, export_models
from nin_edge_export.graph import build_graph
from nin_edge_export.parity import pytorch_probabilities
from nin_edge_export.report import measurement
from nin_edge_runtime.golden import golden_image

MODELS = Path(__file__).parent.parent / "data" / "make_models.py"
LABELLED = 40

DatasetMaker = Callable[..., Dataset]


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure latency for the fewest rounds."""
    monkeypatch.setattr(measurement, "SECONDS", 0.0)


@pytest.fixture(scope="session")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    """The tiny network: three classes, RGB of 16 x 16."""
    return Checkpoint.load(tiny_weights)


@pytest.fixture(scope="session")
def grey_checkpoint() -> Checkpoint:
    """Its like for grey images."""
    grey: Checkpoint = runpy.run_path(str(MODELS))["tiny_checkpoint"](1)
    return grey


@pytest.fixture(scope="session")
def graph(checkpoint: Checkpoint) -> ModelProto:
    """The tiny network's fp32 graph; tests must not change it."""
    return build_graph(checkpoint, "full")


@pytest.fixture(scope="session")
def make_dataset() -> DatasetMaker:
    """Makes a data set of arrays; the hold-out and the test split are given, the rest trains."""

    def make(
        name: str,
        labels: tuple[str, ...],
        images: NDArray[np.uint8],
        targets: NDArray[np.integer],
        *,
        holdout: slice,
        test: slice,
        **fields: Any,
    ) -> Dataset:
        every = np.arange(len(images))
        chosen = np.concatenate([every[holdout], every[test]])
        return Dataset(
            name=name,
            labels=labels,
            images=images,
            targets=targets.astype(np.int64),
            names=tuple(map(str, every)),
            train=np.setdiff1d(every, chosen),
            holdout=every[holdout],
            test=every[test],
            unreadable=(),
            fingerprint="",
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def dataset(checkpoint: Checkpoint, make_dataset: DatasetMaker) -> Dataset:
    """Golden images; three in four have the label that the network predicts."""
    images = np.stack([golden_image(4000 + seed, 16, 16) for seed in range(LABELLED)])
    every = np.arange(LABELLED)
    targets = pytorch_probabilities(checkpoint, checkpoint.network(), images, every).argmax(axis=1)
    targets[::4] = (targets[::4] + 1) % len(checkpoint.labels)
    return make_dataset(
        "synthetic", checkpoint.labels, images, targets, holdout=slice(16, 28), test=slice(28, 40)
    )


@pytest.fixture(scope="session")
def unmeasured(checkpoint: Checkpoint) -> dict[str, ExportedModel]:
    """Every precision without data."""
    return {model.info.precision: model for model in export_models(checkpoint)}


@pytest.fixture(scope="session")
def measured(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, ExportedModel]:
    """Every precision, with data for everything and no fitted temperature."""
    options = ExportOptions(max_drop=100.0, calibration_images=10)
    models = export_models(
        replace(checkpoint, temperature=None), options, dataset=dataset, calibration=dataset
    )
    return {model.info.precision: model for model in models}

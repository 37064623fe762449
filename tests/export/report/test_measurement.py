"""The report's figures: those of the hand-made probabilities."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge_export import ExportedModel, ExportOptions, export_models
from nin_edge_export.report import Report, measure, to_html
from nin_edge_export.report.measurement import WORST
from nin_edge_runtime.golden import golden_image

from .conftest import PROBABILITIES, certified

ROUNDING = 1e-9  # of double precision; the probabilities here are float32
FLOAT32 = 1e-6


def test_figures_of_a_file_are_those_of_its_answers(report: Report) -> None:
    file = report.files[-1]
    assert file.scores is not None
    assert file.scores.top1 == 0.5  # the first and the third
    assert file.scores.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    # Confidences 0.8, 0.5, 0.6 and 0.5, the second and the last in one bin.
    expected = (abs(1 - 0.8) + 2 * abs(0 - 0.5) + abs(1 - 0.6)) / 4
    assert file.scores.ece == pytest.approx(expected, abs=FLOAT32)


def test_calibration_before_is_without_the_temperature(report: Report) -> None:
    file = report.files[0]
    assert file.info.temperature == 1.5
    assert file.uncalibrated is not None
    powers = PROBABILITIES.astype(np.float64) ** 1.5
    confidence = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    found = np.nan_to_num(file.uncalibrated.confidence) @ file.uncalibrated.count
    assert found == pytest.approx(confidence.sum(), abs=ROUNDING)


def test_machine_is_named(report: Report) -> None:
    machine = report.machine
    assert machine.cpu.endswith("CPUs")
    assert re.match(r"\d+\.\d+", machine.onnxruntime)
    assert (machine.threads, machine.images) == (1, 1)
    assert machine.rounds >= 3


def test_fixed_batch_is_said(checkpoint: Checkpoint) -> None:
    models = export_models(checkpoint, ExportOptions(precisions=("fp32",), batch=2))
    report = measure(models, checkpoint, name="tiny")
    assert report.machine.images == 2
    assert b"the fixed batch of 2 images" in to_html(report)


def test_worst_disagreements_come_first(report: Report, four_images: Dataset) -> None:
    found = report.disagreements
    assert found is not None
    assert (found.precision, found.count) == ("int8", 2)
    third, second = found.worst
    assert (third.image, second.image) == ("image-4.png", "image-3.png")
    assert (third.label, third.pytorch, third.file) == ("étoile", "circle", "étoile")
    assert third.pytorch_probability == 0.5
    assert third.file_probability == pytest.approx(0.6, abs=FLOAT32)
    assert third.difference == pytest.approx(0.3, abs=FLOAT32)
    assert second.difference == pytest.approx(0.2, abs=FLOAT32)


def test_disagreements_are_shown_as_the_network_sees_them(
    report: Report, four_images: Dataset, tmp_path: Path
) -> None:
    assert report.disagreements is not None
    (tmp_path / "seen.png").write_bytes(report.disagreements.worst[0].png)
    with Image.open(tmp_path / "seen.png") as image:
        np.testing.assert_array_equal(np.asarray(image), four_images.images[4])


def test_no_more_disagreements_than_a_page_can_show(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint, four_images: Dataset
) -> None:
    count = 30
    images = np.stack([golden_image(seed, 16, 16) for seed in range(count)])
    every = np.arange(count)
    many = replace(
        four_images,
        images=images,
        targets=every % 3,
        names=tuple(map(str, every)),
        test=every,
    )
    model = certified(unmeasured["int8"], checkpoint.labels)
    model = replace(
        model,
        reference=np.tile([0.6, 0.4, 0.0], (count, 1)),
        probabilities=np.tile(np.float32([0.4, 0.6, 0.0]), (count, 1)),
    )
    found = measure([model], checkpoint, name="x", dataset=many).disagreements
    assert found is not None
    assert (found.count, len(found.worst)) == (count, WORST)

"""nin-edge-js in Node: its own tests, and bit for bit the Python runtime's predictions."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from benchmarks import _node
from nin_edge.checkpoint import Checkpoint
from nin_edge_export import ExportOptions, export_models
from nin_edge_runtime import DEFAULT_MODEL, Classifier
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.image import load_image

pytestmark = pytest.mark.usefixtures("node")

MODELS = ("format-1", "normalize", "none", "grey", "grey-none")
REQUANTISED = 1e-3
"""Least difference that quantising it again makes; measured 6e-3."""

SIZES = ((16, 16), (1, 1), (31, 20), (7, 300), (120, 161), (333, 250))


def test_the_packages_own_tests_pass() -> None:
    tests = sorted(path.name for path in (_node.PACKAGE / "test").glob("*.test.js"))
    done = subprocess.run(
        ["node", "--test", *(f"test/{name}" for name in tests)],
        cwd=_node.PACKAGE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    passed = re.search(r"^\S+ pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed
    assert int(passed[1]) >= 29


def test_what_is_packed_is_what_a_user_needs() -> None:
    done = subprocess.run(
        ["npm", "pack", "--dry-run", "--json", "--ignore-scripts"],
        cwd=_node.PACKAGE,
        capture_output=True,
        text=True,
        check=True,
    )
    (package,) = _packed(json.loads(done.stdout))
    names = {file["path"] for file in package["files"]}
    sources = {f"src/{path.name}" for path in (_node.PACKAGE / "src").glob("*.js")}
    types = {f"types/{path.name}" for path in (_node.PACKAGE / "types").glob("*.d.ts")}
    expected = {"package.json", "README.md", "examples/label.js", *sources, *types}
    assert names - {"LICENSE"} == expected  # which packing copies
    assert "types/index.d.ts" in types


def _packed(report: list[dict[str, Any]] | dict[str, Any]) -> list[dict[str, Any]]:
    """The packages in npm's report; npm 11 and newer have them by name."""
    return list(report.values()) if isinstance(report, dict) else report


def pictures(rng: np.random.Generator) -> list[np.ndarray]:
    """Noise and drawn images of all sizes, opaque and with transparency."""
    found = []
    for seed, (height, width) in enumerate(SIZES):
        found.append(golden_image(seed, height, width))
        found.append(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
    return found


def python_outputs(model: Path | bytes, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The Python runtime's probabilities and class maps; it takes RGBA as a PIL image."""
    classify = Classifier(model, provider="cpu", threads=1)
    found = [classify(image if image.shape[2] == 3 else Image.fromarray(image)) for image in images]
    return (
        np.stack([prediction.probabilities for prediction in found]),
        np.stack([prediction.class_map.ravel() for prediction in found]),
    )


@pytest.mark.parametrize("name", MODELS)
def test_predictions_of_images_of_any_size_equal_pythons_bit_for_bit(
    name: str, tiny_model: Path, rng: np.random.Generator
) -> None:
    model, images = tiny_model.with_name(f"{name}.fp32.onnx"), pictures(rng)
    found = _node.classify(model, images)
    probabilities, maps = python_outputs(model, images)
    assert np.array_equal(found.probabilities, probabilities)
    assert np.array_equal(found.maps, maps)


def test_the_default_models_predictions_of_a_photo_equal_pythons(photo: Path) -> None:
    pixels = load_image(photo)
    images = [pixels, pixels[:, :100], pixels[5:260, 3:]]
    found = _node.classify(DEFAULT_MODEL, images)
    assert np.array_equal(found.probabilities, python_outputs(DEFAULT_MODEL, images)[0])


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return Checkpoint.load(tiny_weights)


def test_a_convolution_that_int8_left_in_float_stays_in_float(float_layer_model: Path) -> None:
    """ONNX Runtime by itself would quantise it again (WeightBiasQuantization)."""
    images = [golden_image(seed, 16, 16) for seed in range(20)]
    found = _node.classify(float_layer_model, images)
    assert np.array_equal(found.probabilities, python_outputs(float_layer_model, images)[0])
    session = onnxruntime.InferenceSession(float_layer_model, providers=["CPUExecutionProvider"])
    by_itself = session.run(["probabilities"], {"image": np.stack(images)})[0]
    assert np.abs(found.probabilities - by_itself).max() > REQUANTISED


@pytest.mark.parametrize("embedded", ["full", "none"])
def test_a_file_of_a_fixed_batch_takes_single_images(
    checkpoint: Checkpoint, embedded: str, tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("fp32",), embedded=embedded, batch=3)
    (exported,) = export_models(checkpoint, options)
    (model := tmp_path / "fixed.onnx").write_bytes(exported.data)
    images = [golden_image(seed, 24, 30) for seed in range(4)]
    found = _node.classify(model, images)
    assert np.array_equal(found.probabilities, python_outputs(model, images)[0])
    assert found.verified < 1e-6


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_golden_samples_pass_in_all_precisions(
    precision: str, default_exports: Mapping[str, Path]
) -> None:
    found = _node.classify(default_exports[precision], [golden_image(1, 40, 40)])
    expected = python_outputs(default_exports[precision], [golden_image(1, 40, 40)])[0]
    assert np.array_equal(found.probabilities, expected)
    assert found.verified < 1e-6

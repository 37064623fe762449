"""The exported files on CUDA against the PyTorch network and the CPU, where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from nin_edge.checkpoint import Checkpoint
from nin_edge.weights import DEFAULT_WEIGHTS
from nin_edge_export import PRECISIONS, ExportedModel, export_models
from nin_edge_export.parity import pytorch_probabilities
from nin_edge_runtime import Classifier, ProviderError
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.providers import create_session
from nin_edge_runtime.verify import TOLERANCES, replay

pytestmark = pytest.mark.gpu

BATCHES = (1, 64)

PYTORCH_TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest difference of a probability from PyTorch's in fp32; TF32's rounding would exceed fp32's.

int8's own rounding is larger than what CUDA could add: its files are compared with the CPU."""

MAP_TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "int8": 1e-1}
"""Largest difference of a class map's value from the CPU's, relative to the largest value."""

SURE = 0.2
"""Margin of the best class from which the answer must not depend on the provider."""


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    """Skips all of them, before anything is exported, where CUDA is not active."""
    try:
        Classifier(provider="cuda")
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(DEFAULT_WEIGHTS)


@pytest.fixture(scope="module")
def models(checkpoint: Checkpoint) -> dict[str, ExportedModel]:
    """The default weights in every precision."""
    return {model.info.precision: model for model in export_models(checkpoint)}


@pytest.fixture(scope="module")
def on(models: dict[str, ExportedModel]) -> Callable[[str, str], Classifier]:
    """Starts the file of a precision on a provider."""
    return lambda precision, provider: Classifier(models[precision].data, provider=provider)


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return [golden_image(seed, 40, 56) for seed in range(max(BATCHES))]


@pytest.fixture(scope="module")
def pytorch(checkpoint: Checkpoint, images: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """PyTorch's probabilities, (N, K)."""
    pixels = np.stack([checkpoint.preprocessing.resize(image) for image in images])
    return pytorch_probabilities(checkpoint, checkpoint.network(), pixels, np.arange(len(pixels)))


def _probabilities(
    classify: Classifier, images: list[NDArray[np.uint8]], size: int
) -> NDArray[np.float32]:
    """(N, K), from batches of `size`."""
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    return np.stack([found.probabilities for part in parts for found in classify.batch(part)])


@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("precision", PYTORCH_TOLERANCES)
def test_float_files_agree_with_pytorch(
    on: Callable[[str, str], Classifier],
    images: list[NDArray[np.uint8]],
    pytorch: NDArray[np.float64],
    precision: str,
    size: int,
) -> None:
    classify = on(precision, "cuda")
    assert classify.provider == "cuda"
    answers = _probabilities(classify, images, size)
    assert np.abs(answers - pytorch).max() <= PYTORCH_TOLERANCES[precision]


@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_file_agrees_with_the_cpu(
    on: Callable[[str, str], Classifier],
    images: list[NDArray[np.uint8]],
    precision: str,
    size: int,
) -> None:
    answers = _probabilities(on(precision, "cuda"), images, size)
    expected = _probabilities(on(precision, "cpu"), images, size)
    assert np.abs(answers - expected).max() <= TOLERANCES[precision]
    ordered = np.sort(expected, axis=1)
    sure = ordered[:, -1] - ordered[:, -2] >= SURE
    assert sure.sum() >= len(images) // 4
    assert np.array_equal(answers[sure].argmax(axis=1), expected[sure].argmax(axis=1))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_class_maps_are_the_cpus(
    on: Callable[[str, str], Classifier], images: list[NDArray[np.uint8]], precision: str
) -> None:
    there = on(precision, "cuda").batch(images[:8])
    here = on(precision, "cpu").batch(images[:8])
    for found, expected in zip(there, here, strict=True):
        if found.label == expected.label:
            scale = max(1.0, float(np.abs(expected.class_map).max()))
            difference = np.abs(found.class_map - expected.class_map).max() / scale
            assert difference <= MAP_TOLERANCES[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_golden_samples_are_as_exported(
    on: Callable[[str, str], Classifier], precision: str
) -> None:
    classify = on(precision, "cuda")
    assert replay(classify).difference <= TOLERANCES[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_is_printed_at_new_batch_sizes(
    models: dict[str, ExportedModel],
    images: list[NDArray[np.uint8]],
    precision: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    classify = Classifier(models[precision].data, provider="cuda")
    for size in (3, 5, 7):
        classify.batch(images[:size])
    assert capfd.readouterr() == ("", "")


def test_tf32_is_used_only_if_asked(
    on: Callable[[str, str], Classifier],
    models: dict[str, ExportedModel],
    images: list[NDArray[np.uint8]],
    pytorch: NDArray[np.float64],
) -> None:
    classify = on("fp32", "cuda")
    fed = np.stack([classify.info.preprocessing.resize(image) for image in images])
    differences = {}
    for tf32 in (False, True):
        session, active = create_session(models["fp32"].data, "m", provider="cuda", tf32=tf32)
        assert active == "cuda"
        options = session.get_provider_options()["CUDAExecutionProvider"]
        assert options.get("use_tf32", "0") == str(int(tf32))
        assert options["cudnn_conv_algo_search"] == "HEURISTIC"
        (answers,) = session.run(["probabilities"], {"image": fed})
        differences[tf32] = float(np.abs(answers - pytorch).max())
    assert differences[False] <= PYTORCH_TOLERANCES["fp32"]
    assert differences[True] <= PYTORCH_TOLERANCES["fp16"]  # as many bits

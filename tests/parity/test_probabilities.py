"""The exported file, through the runtime, against the PyTorch network it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nin_edge import metrics
from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset
from nin_edge.network import NetworkConfig, NiN
from nin_edge.weights import DEFAULT_WEIGHTS, WEIGHTS
from nin_edge_export import ExportOptions, export_models
from nin_edge_export.int8 import quantize
from nin_edge_runtime import DEFAULT_MODEL, Classifier
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.preprocessing import Preprocessing

PROBABILITY_TOLERANCE = 1e-4
"""Largest difference of a probability between an fp32 file and PyTorch."""

MAP_TOLERANCE = 1e-3
"""Largest difference of a class map's value, relative to the largest value."""

INT8_DROP = 0.003
"""Most top-1 accuracy that int8 may lose against PyTorch in fp32."""

INT8_AGREEMENT = 0.99
"""Least share of images with PyTorch's answer in int8."""

CERTIFIED_TOLERANCE = 0.001
"""Share of images whose int8 answer another processor's rounding before the network may change."""

REAL_IMAGES = 1000


def _pytorch(
    checkpoint: Checkpoint, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    every = np.arange(len(pixels))
    logits = evaluate.logits(checkpoint.network(), checkpoint.preprocessing, pixels, every)
    return metrics.softmax(logits, checkpoint.temperature or 1.0)


def _answers(
    classify: Classifier, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    parts = [
        classify.batch(list(pixels[start : start + 250])) for start in range(0, len(pixels), 250)
    ]
    return np.stack([found.probabilities for part in parts for found in part]).astype(np.float64)


def _exported(
    checkpoint: Checkpoint, embedded: str = "full", precision: str = "fp32"
) -> Classifier:
    options = ExportOptions(precisions=(precision,), embedded=embedded)
    (model,) = export_models(checkpoint, options)
    return Classifier(model.data)


@pytest.fixture(scope="module")
def default_checkpoint() -> Checkpoint:
    return Checkpoint.load(DEFAULT_WEIGHTS)


@pytest.fixture(scope="module")
def default_fp32(default_checkpoint: Checkpoint) -> Classifier:
    return _exported(default_checkpoint)


def test_default_weights_in_fp32_agree_with_pytorch_on_real_images(
    default_checkpoint: Checkpoint, default_fp32: Classifier, cifar: Dataset
) -> None:
    chosen = cifar.test[:: len(cifar.test) // REAL_IMAGES]
    pixels = cifar.images[chosen]
    reference = _pytorch(default_checkpoint, pixels)
    answers = _answers(default_fp32, pixels)
    assert len(answers) >= 1000
    assert np.abs(answers - reference).max() <= PROBABILITY_TOLERANCE
    assert np.array_equal(answers.argmax(axis=1), reference.argmax(axis=1))


def test_default_weights_in_fp32_agree_with_pytorch_on_golden_images(
    default_checkpoint: Checkpoint, default_fp32: Classifier
) -> None:
    images = [golden_image(seed, 40, 56) for seed in range(100)]
    pixels = np.stack([default_checkpoint.preprocessing.resize(image) for image in images])
    answers = np.stack([p.probabilities for p in default_fp32.batch(images)])
    reference = _pytorch(default_checkpoint, pixels)
    assert np.abs(answers - reference).max() <= PROBABILITY_TOLERANCE


def test_default_model_keeps_its_accuracy_in_int8(
    default_checkpoint: Checkpoint, cifar: Dataset
) -> None:
    """The shipped file, over all test images: what its certificate says, and what int8 may cost."""
    classify = Classifier(DEFAULT_MODEL)
    pixels, targets = cifar.images[cifar.test], cifar.targets[cifar.test]
    answers = _answers(classify, pixels)
    reference = _pytorch(default_checkpoint, pixels)
    certified = classify.info.certificate
    assert metrics.top1(answers, targets) == pytest.approx(
        certified["accuracy"]["top1"], abs=CERTIFIED_TOLERANCE
    )
    assert metrics.top1(answers, targets) >= metrics.top1(reference, targets) - INT8_DROP
    agreement = (answers.argmax(axis=1) == reference.argmax(axis=1)).mean()
    assert agreement >= INT8_AGREEMENT
    assert agreement == pytest.approx(
        certified["images"]["top1_agreement"], abs=CERTIFIED_TOLERANCE
    )


@pytest.mark.parametrize("name", ["nin-cifar10", "nin-cifar10-half", "nin-cifar10-quarter"])
def test_corrected_biases_keep_int8_near_fp32(
    name: str, cifar: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers' divergence on the hold-out is at most four fifths of what it is without."""
    checkpoint = Checkpoint.load(WEIGHTS[name])
    pixels = cifar.images[cifar.holdout]
    reference = _pytorch(checkpoint, pixels)

    def divergence() -> float:
        int8 = _exported(checkpoint, precision="int8")
        return metrics.divergence(reference, _answers(int8, pixels))

    near = divergence()
    monkeypatch.setattr(quantize, "channel_means", lambda _: {})
    far = divergence()
    assert near <= 0.8 * far


@pytest.mark.parametrize("embedded", ["full", "normalize", "none"])
@pytest.mark.parametrize(
    ("preset", "classes", "channels", "size", "width", "temperature"),
    [
        ("nin", 10, 3, 32, 0.25, None),
        ("nin", 2, 1, 28, 0.1, 2.0),
        ("nin-bn", 10, 3, 32, 1.0, 0.7),
        ("nin-bn", 3, 1, 16, 0.05, None),
        ("nin-bn", 5, 3, 97, 0.1, 1.3),
        ("nin-bn fc", 4, 3, 32, 0.1, 1.2),
        ("nin fc", 4, 1, 18, 0.1, None),
        ("nin-bn linear", 4, 3, 32, 0.1, None),
        ("nin-imagenet", 4, 3, 100, 0.1, 0.8),
    ],
)
def test_every_kind_of_network_agrees_with_pytorch(
    preset: str,
    classes: int,
    channels: int,
    size: int,
    width: float,
    temperature: float | None,
    embedded: str,
) -> None:
    torch.manual_seed(0)
    preset, _, variant = preset.partition(" ")
    config = NetworkConfig.from_preset(
        preset,
        classes=classes,
        channels=channels,
        size=size,
        width=width,
        head="fc" if variant == "fc" else "gap",
        block="linear" if variant == "linear" else "mlpconv",
    )
    network = NiN(config)
    with torch.no_grad():  # statistics of real data, so that folding them is a test
        network.train()
        network(torch.randn(16, channels, size, size) * 2 + 0.3)
    checkpoint = Checkpoint(
        config=config,
        weights=network.state_dict(),
        labels=tuple(f"class {index}" for index in range(classes)),
        preprocessing=Preprocessing(size, channels, (0.4,) * channels, (0.2,) * channels),
        data=DataSource("none"),
        temperature=temperature,
    )
    classify = _exported(checkpoint, embedded=embedded)
    images = [golden_image(seed, size, size) for seed in range(20)]
    pixels = np.stack([checkpoint.preprocessing.resize(image) for image in images])
    singles = [classify(image) for image in images]
    reference = _pytorch(checkpoint, pixels)
    answers = np.stack([prediction.probabilities for prediction in singles])
    assert np.abs(answers - reference).max() <= PROBABILITY_TOLERANCE
    transform = evaluate.InputTransform(checkpoint.preprocessing)
    with torch.inference_mode():
        maps = checkpoint.network().class_maps(transform(torch.from_numpy(pixels))).numpy()
    for prediction, expected in zip(singles, maps, strict=True):
        best = int(prediction.probabilities.argmax())
        scale = max(1.0, float(np.abs(expected[best]).max()))
        assert np.abs(prediction.class_map - expected[best]).max() / scale <= MAP_TOLERANCE


def test_normalisation_is_the_same_in_numpy_and_torch(rng: np.random.Generator) -> None:
    steps = Preprocessing(32, 3, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    pixels = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    by_torch = evaluate.InputTransform(steps)(torch.from_numpy(pixels)).numpy()
    assert np.allclose(steps.normalize(pixels), by_torch, rtol=0, atol=1e-6)
    wide = (pixels / 255 - np.array(steps.mean)) / np.array(steps.std)
    assert np.allclose(by_torch, wide.transpose(0, 3, 1, 2), rtol=0, atol=1e-5)


def test_temperature_changes_scores_but_no_answer(tiny_weights: Path) -> None:
    checkpoint = Checkpoint.load(tiny_weights)
    plain = _exported(replace(checkpoint, temperature=None))
    soft = _exported(replace(checkpoint, temperature=3.0))
    for seed in range(8):
        image = golden_image(seed, 20, 30)
        assert plain(image).label == soft(image).label
        assert plain(image).score > soft(image).score

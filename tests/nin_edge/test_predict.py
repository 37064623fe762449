"""Any model over a data set: the same figures from a checkpoint, its export, image by image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset, DatasetError, open_dataset
from nin_edge.metrics import Scores, softmax, top1
from nin_edge.network import NetworkConfig, NiN
from nin_edge.predict import (
    InputTransform,
    Predictor,
    TorchPredictor,
    batches,
    evaluate,
    logits,
    open_predictor,
    probabilities,
    to_device,
)
from nin_edge.weights import DEFAULT_WEIGHTS
from nin_edge_runtime import Classifier, ModelFileError, ProviderError
from nin_edge_runtime.preprocessing import Preprocessing

NORMALISED_TOLERANCE = 1e-6  # one or two steps of float32 at the magnitude of a normalised pixel
BATCHED_TOLERANCE = 1e-5  # convolutions of another batch size sum in another order
GPU_TOLERANCE = 1e-4  # of logits; TF32's rounding would exceed it
PROBABILITY_TOLERANCE = 1e-5  # of an export in fp32, and of figures that follow from it
IMAGES = 300  # more than one batch, and no multiple of it


def tiny(preset: str, channels: int = 3) -> tuple[NiN, Preprocessing]:
    torch.manual_seed(0)
    config = NetworkConfig.from_preset(preset, classes=3, channels=channels, size=16, width=0.01)
    return NiN(config), Preprocessing(16, channels, (0.4,) * channels, (0.2,) * channels)


def noise(rng: np.random.Generator, channels: int = 3) -> NDArray[np.uint8]:
    return rng.integers(0, 256, size=(IMAGES, 16, 16, channels), dtype=np.uint8)


# --- the network's input and logits ---------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transform_is_the_runtimes_normalisation(
    rng: np.random.Generator, channels: int
) -> None:
    mean, std = (0.491, 0.482, 0.447)[:channels], (0.247, 0.243, 0.262)[:channels]
    preprocessing, pixels = Preprocessing(16, channels, mean, std), noise(rng, channels)
    given = InputTransform(preprocessing)(torch.from_numpy(pixels))
    assert given.shape == (IMAGES, channels, 16, 16)
    assert given.is_contiguous(memory_format=torch.channels_last)
    expected = preprocessing.normalize(pixels)
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=NORMALISED_TOLERANCE)


def test_logits_are_the_networks_for_the_chosen_images(rng: np.random.Generator) -> None:
    (network, preprocessing), images = tiny("nin"), noise(rng)
    chosen = rng.permutation(IMAGES)[:270]
    given = logits(network.train(), preprocessing, images, chosen)
    assert not network.training  # dropout would make the numbers random
    with torch.inference_mode():
        expected = network(torch.from_numpy(preprocessing.normalize(images[chosen]))).numpy()
    assert (given.shape, given.dtype) == ((270, 3), np.float32)
    np.testing.assert_allclose(given, expected, rtol=0, atol=BATCHED_TOLERANCE)


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_logits(gpu: torch.device, rng: np.random.Generator) -> None:
    checkpoint = Checkpoint.load(DEFAULT_WEIGHTS)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    network, every = checkpoint.network(), np.arange(IMAGES)
    expected = logits(network, checkpoint.preprocessing, images, every)
    given = logits(network.to(gpu), checkpoint.preprocessing, images, every, gpu)
    np.testing.assert_allclose(given, expected, rtol=0, atol=GPU_TOLERANCE)


def test_logits_of_no_images_are_an_empty_table(rng: np.random.Generator) -> None:
    network, preprocessing = tiny("nin-bn")
    empty = logits(network, preprocessing, noise(rng), np.array([], dtype=np.int64))
    assert empty.shape == (0, 3)


def test_an_array_stays_where_it_is_on_the_cpu(rng: np.random.Generator) -> None:
    values = noise(rng)
    tensor = to_device(values, "cpu")
    values[0, 0, 0, 0] ^= 1
    assert tensor.numpy()[0, 0, 0, 0] == values[0, 0, 0, 0]


@pytest.mark.parametrize(("side", "count"), [(16, 256), (32, 64), (97, 6), (512, 1)])
def test_a_batch_is_bounded_in_pixels(side: int, count: int) -> None:
    images = np.zeros((2 * count + 1, side, side, 1), np.uint8)
    chosen = np.arange(len(images))
    assert [len(batch) for batch in batches(images, chosen)] == [count, count, 1]


# --- models over a data set -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def seven(patches_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(patches_folder, size=16, cache=tmp_path_factory.mktemp("seven-cache"))


@pytest.fixture(scope="module")
def predictors(seven_models: tuple[Path, Path]) -> list[Predictor]:
    """A checkpoint and its export."""
    return [open_predictor(path, "cpu") for path in seven_models]


def test_a_predictor_describes_its_model(
    predictors: list[Predictor], seven_models: tuple[Path, Path]
) -> None:
    by_torch, by_onnx = predictors
    assert [by_torch.name, by_onnx.name] == [str(path) for path in seven_models]
    assert [by_torch.engine, by_onnx.engine] == ["PyTorch", "ONNX Runtime"]
    for predictor in predictors:
        assert (predictor.precision, predictor.device) == ("fp32", "cpu")
        assert predictor.labels == tuple(f"class-{letter}" for letter in "abcdefg")
        assert (predictor.preprocessing.size, predictor.preprocessing.channels) == (16, 3)


@pytest.mark.parametrize("split", ["test", "holdout", "train", "all"])
def test_checkpoint_and_export_have_the_same_scores(
    predictors: list[Predictor], seven: Dataset, split: str
) -> None:
    by_torch, by_onnx = (evaluate(predictor, seven, split) for predictor in predictors)
    assert by_torch.count == {"test": 28, "holdout": 14, "train": 98, "all": 140}[split]
    np.testing.assert_array_equal(by_torch.confusion, by_onnx.confusion)
    assert by_torch.top5 == by_onnx.top5
    assert by_torch.ece == pytest.approx(by_onnx.ece, abs=PROBABILITY_TOLERANCE)
    for name in ("count", "confidence", "accuracy"):
        np.testing.assert_allclose(
            getattr(by_torch.calibration, name),
            getattr(by_onnx.calibration, name),
            rtol=0,
            atol=PROBABILITY_TOLERANCE,
        )
    assert by_torch.thresholds == by_onnx.thresholds
    assert by_torch.top5 is not None
    assert 0 < by_torch.top1 < by_torch.top5 <= 1  # else the comparison says little


def test_scores_are_those_of_single_images(
    seven_models: tuple[Path, Path], predictors: list[Predictor], seven: Dataset
) -> None:
    classify = Classifier(seven_models[1], provider="cpu")
    singly = [classify(pixels) for pixels in seven.images]
    scores = evaluate(predictors[1], seven, "all")
    confusion = np.zeros((7, 7), dtype=int)
    in_top5 = 0
    for made, target in zip(singly, seven.targets, strict=True):
        confusion[target, seven.labels.index(made.label)] += 1
        in_top5 += seven.labels[target] in dict(made.top(5))
    np.testing.assert_array_equal(scores.confusion, confusion)
    assert scores.top1 == pytest.approx(np.trace(confusion) / 140)
    assert scores.top5 == pytest.approx(in_top5 / 140)


def test_thresholds_are_what_min_score_does(
    seven_models: tuple[Path, Path], predictors: list[Predictor], seven: Dataset
) -> None:
    thresholds = evaluate(predictors[1], seven, "all").thresholds
    assert 0 < thresholds[0].coverage < 1  # else this says little
    for threshold in thresholds:
        classify = Classifier(seven_models[1], provider="cpu", min_score=threshold.min_score)
        predictions = classify.batch(list(seven.images))
        correct = [
            made.label == seven.labels[target]
            for made, target in zip(predictions, seven.targets, strict=True)
            if not made.unknown
        ]
        assert threshold.coverage == pytest.approx(len(correct) / 140)
        assert threshold.top1 == (pytest.approx(np.mean(correct)) if correct else None)


@pytest.mark.parametrize("engine", [0, 1], ids=["torch", "onnx"])
def test_images_go_through_the_model_a_batch_at_a_time(
    predictors: list[Predictor],
    seven: Dataset,
    engine: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = np.random.default_rng(0).permutation(140)
    (whole,) = probabilities(predictors[engine], seven, chosen)
    monkeypatch.setattr(predict, "_BATCH_PIXELS", 60 * 16 * 16)
    progress: list[tuple[int, int]] = []
    parts = list(
        probabilities(predictors[engine], seven, chosen, lambda *call: progress.append(call))
    )
    assert [len(part) for part in parts] == [60, 60, 20]
    assert progress == [(60, 140), (120, 140), (140, 140)]
    assert whole.shape == (140, 7)
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=PROBABILITY_TOLERANCE)
    assert evaluate(predictors[engine], seven, "all").top1 == top1(whole, seven.targets[chosen])


def grey_checkpoint() -> Checkpoint:
    network, preprocessing = tiny("nin-bn", channels=1)
    labels = ("circle", "square", "étoile")
    return Checkpoint(
        network.config, network.state_dict(), labels, preprocessing, data=None, temperature=2.0
    )


def grey(folder: Path, make_folder: Any) -> Dataset:
    counts = dict.fromkeys(["circle", "square", "étoile"], 5)
    return open_dataset(make_folder(folder / "grey", counts), size=16, channels=1)


def test_grey_images_go_through_an_exported_model(
    tiny_model: Path, tmp_path: Path, make_folder: Any
) -> None:
    data = grey(tmp_path, make_folder)
    path = tiny_model.with_name("grey.fp32.onnx")
    (given,) = probabilities(open_predictor(path, "cpu"), data, np.arange(15))
    singly = [Classifier(path, provider="cpu")(pixels).probabilities for pixels in data.images]
    np.testing.assert_allclose(given, np.stack(singly), rtol=0, atol=PROBABILITY_TOLERANCE)


def test_grey_images_go_through_a_checkpoint(tmp_path: Path, make_folder: Any) -> None:
    data, checkpoint = grey(tmp_path, make_folder), grey_checkpoint()
    (given,) = probabilities(TorchPredictor(checkpoint), data, np.arange(15))
    network, steps = checkpoint.network(), checkpoint.preprocessing
    values = logits(network, steps, data.images, np.arange(15))
    np.testing.assert_array_equal(given, softmax(values, 2.0))


# --- what cannot be scored ------------------------------------------------------------------------


class Strange:
    """A predictor that gives what it is told to."""

    name, engine, precision, device = "strange.onnx", "none", "fp32", "cpu"
    preprocessing = Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3)
    labels = ("circle", "square", "triangle")

    def __init__(self, value: float = 1 / 3) -> None:
        self.value = value

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        return np.full((len(pixels), 3), self.value)


@pytest.mark.parametrize("value", [float("nan"), -0.5, 7.0])
def test_what_are_no_probabilities_is_refused(shapes: Dataset, value: float) -> None:
    assert isinstance(evaluate(Strange(), shapes), Scores)
    words = f"strange.onnx: invalid probabilities: a probability of {value}"
    with pytest.raises(ModelFileError, match=words):
        evaluate(Strange(value), shapes)


def test_other_data_than_the_models_are_refused(shapes: Dataset) -> None:
    with pytest.raises(DatasetError, match="its labels are not the model's: the same, but"):
        evaluate(Strange(), replace(shapes, labels=("square", "circle", "triangle")))
    with pytest.raises(DatasetError, match=r"shape \(16, 16, 1\), the model expects \(16, 16, 3\)"):
        evaluate(Strange(), replace(shapes, images=shapes.images[..., :1]))
    with pytest.raises(DatasetError, match="no images in the split 'test'; the split 'all' has"):
        evaluate(Strange(), replace(shapes, test=np.array([], np.int64)), "test")


def test_a_file_of_no_known_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFileError, match=r"model.pt: expected a checkpoint \(.safetensors\) or"
    ):
        open_predictor(tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="nothing: no such file, expected a checkpoint"):
        open_predictor("nothing")


def test_weights_that_ship_have_a_name() -> None:
    predictor = open_predictor("nin-cifar10-quarter", "cpu")
    assert (predictor.engine, len(predictor.labels)) == ("PyTorch", 10)


def test_cuda_that_torch_does_not_see_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a CUDA device")
    assert predict.torch_device("auto") == predict.torch_device("cpu") == "cpu"
    with pytest.raises(ProviderError, match="--device cuda: torch sees no CUDA device here; use"):
        predict.torch_device("cuda", "--device")

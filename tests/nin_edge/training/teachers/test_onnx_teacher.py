"""Any ONNX classifier as a teacher: what it sees, what it teaches, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.network import NetworkConfig
from nin_edge.training.errors import TrainingError, TrainingStoppedError
from nin_edge.training.finetune import Pretrained
from nin_edge.training.recipe import Recipe
from nin_edge.training.teachers import (
    OnnxTeacher,
    Teachers,
    load_teacher,
    teacher_notes,
    teachers_work,
)
from nin_edge_runtime import ModelFileError

TOLERANCE = 1e-4  # of log-probabilities, after sums in another order
EXPORTED = 1e-3  # of those of an exported file, whose pixels are whole numbers
LABELS = ("circle", "square", "triangle")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = {"mean": MEAN, "std": STD, "outputs": "logits"}
WEIGHTS = np.random.default_rng(3).normal(size=(3, 3)).astype(np.float32)

Write = Callable[..., Path]


def expected(pixels: NDArray[np.uint8], weights: NDArray[np.float32] = WEIGHTS) -> torch.Tensor:
    """The log-probabilities of the classifier that `write_teacher` writes, in float64."""
    colour = (pixels.mean((1, 2)) / 255 - MEAN) / STD  # a resize keeps the mean of a flat image
    return torch.from_numpy(colour @ weights).log_softmax(1).float()


@pytest.fixture
def flat(rng: np.random.Generator) -> NDArray[np.uint8]:
    """70 images of one colour each, at another size than the teacher's: three runs of it."""
    return np.tile(rng.integers(0, 256, (70, 1, 1, 3), dtype=np.uint8), (1, 16, 16, 1))


def teach(path: Path, pixels: NDArray[np.uint8], labels: tuple[str, ...] = LABELS) -> torch.Tensor:
    return Teachers([load_teacher(path)], labels, 3)(torch.from_numpy(pixels))


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({}, {}),
        ({"outputs": "probabilities"}, {"softmax": True}),
        ({"layout": "NHWC"}, {"shape": ("n", 24, 24, 3), "nhwc": True}),
        ({"size": 24}, {"shape": ("n", 3, "h", "w")}),
        ({"size": 24, "layout": "NHWC"}, {"shape": ("n", "h", "w", "c"), "nhwc": True}),
        ({}, {"shape": (1, 3, 24, 24)}),
        ({}, {"shape": (32, 3, 24, 24)}),
        ({"output_name": "scores"}, {"outputs": ("scores", "features")}),
    ],
    ids=str,
)
def test_a_teacher_of_any_form_gives_its_own_log_probabilities(
    write_teacher: Write,
    flat: NDArray[np.uint8],
    tmp_path: Path,
    changes: dict[str, Any],
    written: dict[str, Any],
) -> None:
    path = write_teacher(tmp_path / "t.onnx", WEIGHTS, SPEC | changes, **written)
    torch.testing.assert_close(teach(path, flat), expected(flat), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", [(1, 3, 24, 24), ("n", 3, 24, 24)])
def test_one_images_logits_may_look_like_probabilities(
    write_teacher: Write, tmp_path: Path, shape: tuple[int | str, ...]
) -> None:
    path = write_teacher(tmp_path / "t.onnx", np.eye(3, dtype=np.float32), SPEC, shape=shape)
    pixel = np.round(255 * np.add(MEAN, 0.04)).astype(np.uint8)  # of logits of about 0.2
    pixels = np.tile(pixel, (1, 24, 24, 1))
    found = expected(pixels, np.eye(3, dtype=np.float32))
    torch.testing.assert_close(teach(path, pixels), found, rtol=0, atol=TOLERANCE)


def test_one_number_of_the_normalisation_serves_all_channels(
    write_teacher: Write, flat: NDArray[np.uint8], tmp_path: Path
) -> None:
    # Pixels of 0 to 255, as Keras' EfficientNet takes them.
    whole = {"mean": 0, "std": 1 / 255, "outputs": "logits"}
    path = write_teacher(tmp_path / "t.onnx", WEIGHTS / 100, whole)
    logits = torch.from_numpy(flat.mean((1, 2)) @ (WEIGHTS / 100))
    found = teach(path, flat)
    torch.testing.assert_close(found, logits.log_softmax(1).float(), rtol=0, atol=TOLERANCE)


def test_labels_in_another_order_are_put_in_the_datas(
    write_teacher: Write, flat: NDArray[np.uint8], tmp_path: Path
) -> None:
    order = [2, 0, 1]
    labels = [LABELS[index] for index in order]
    path = write_teacher(tmp_path / "t.onnx", WEIGHTS[:, order], SPEC | {"labels": labels})
    torch.testing.assert_close(teach(path, flat), expected(flat), rtol=0, atol=TOLERANCE)


def test_an_exported_file_teaches_what_its_checkpoint_teaches(
    tiny_model: Path, tiny_weights: Path, rng: np.random.Generator
) -> None:
    checkpoint = Checkpoint.load(tiny_weights)
    side = checkpoint.config.size
    pixels = torch.from_numpy(rng.integers(0, 256, (9, side, side, 3), dtype=np.uint8))
    own, model = (
        Teachers([teacher], checkpoint.labels, 3)(pixels)
        for teacher in (Pretrained("tiny", checkpoint), load_teacher(tiny_model))
    )
    torch.testing.assert_close(model, own, rtol=0, atol=EXPORTED)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("described", "written", "message"),
    [
        (None, {}, r"an ONNX model of another program, expected t\.json beside it, for example \{"),
        ("{", {}, r"t\.json: Expecting property name"),
        ([1], {}, r"t\.json: the teacher's description: expected an object"),
        ({"mean": 0}, {}, r"t\.json: .* std is missing"),
        (SPEC | {"means": 0}, {}, "unknown field 'means': expected mean, std, size, layout, "),
        (SPEC | {"mean": [0, 0]}, {}, "mean: 2 numbers, expected 1 or 3"),
        (SPEC | {"mean": 123.7}, {}, r"t\.onnx: preprocessing: expected each mean in 0 to 1"),
        (SPEC | {"layout": "HWC"}, {}, "layout is 'HWC': expected NCHW or NHWC"),
        (SPEC | {"outputs": "scores"}, {}, "outputs is 'scores': expected probabilities or logits"),
        (SPEC | {"labels": ["a", "a", "b"]}, {}, "labels: expected at least two labels, all diff"),
        (SPEC | {"labels": ["a", "b"]}, {}, "2 labels, expected one for each of 3 outputs"),
        (SPEC | {"size": 32}, {}, r"input \['n', 3, 24, 24\], but its JSON has the size 32"),
        (SPEC | {"output_name": "x"}, {}, "no output 'x', expected one of scores"),
        (SPEC, {"shape": ("n", 3, "h", "w")}, 'of any size, expected "size" in its JSON'),
        (
            SPEC,
            {"shape": ("n", 24, 24, 3), "nhwc": True},
            r"input \['n', 24, 24, 3\], expected \"layout\": \"NHWC\" in its JSON",
        ),
        (SPEC | {"layout": "NHWC"}, {}, r"with 24 channels as NHWC, expected 1 or 3"),
        (SPEC, {"shape": ("n", 3, 24, 32)}, "expected a square image as NCHW"),
        (
            SPEC,
            {"element": TensorProto.FLOAT16},
            r"type tensor\(float16\), expected tensor\(float\)",
        ),
        (SPEC, {"outputs": ("scores", "colours")}, '2 outputs, expected "output_name" in its JSON'),
        (
            {"mean": MEAN, "std": STD},
            {},
            r"outputs that are no probabilities \(smallest .*\): expected \"outputs\": \"logits\"",
        ),
        (SPEC, {"softmax": True}, r"outputs probabilities .*: expected \"outputs\": \"prob"),
        (SPEC, {"external": True}, r"its weights are in another file, expected all in one"),
        (SPEC, {"op": ("strange", "Decoder")}, r"t\.onnx: ONNX Runtime .* cannot load it"),
    ],
    ids=str,
)
def test_a_file_that_cannot_teach_is_refused_in_one_line(
    write_teacher: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    described: Any,
    written: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would find other files of a model
    path = write_teacher(tmp_path / "t.onnx", WEIGHTS, described, **written)
    with pytest.raises(ModelFileError, match=message) as refused:
        load_teacher(path)
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_scores_that_are_neither_logits_nor_probabilities_are_refused(
    write_teacher: Write, tmp_path: Path
) -> None:
    whole = {"mean": 0, "std": 1, "outputs": "logits"}
    path = write_teacher(tmp_path / "t.onnx", np.full((3, 3), 0.2, np.float32), whole)
    with pytest.raises(ModelFileError, match=r"values of 0 to 1 .*, expected logits or prob"):
        load_teacher(path)


def test_outputs_that_are_not_finite_are_refused(write_teacher: Write, tmp_path: Path) -> None:
    path = write_teacher(tmp_path / "t.onnx", np.full((3, 3), np.nan, np.float32), SPEC)
    with pytest.raises(ModelFileError, match=r"t\.onnx: outputs NaN or infinity"):
        load_teacher(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "text", "cut", "empty"])
def test_what_is_no_model_is_refused(write_teacher: Write, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        whole = write_teacher(tmp_path / "whole.onnx", WEIGHTS).read_bytes()
        path.write_bytes({"text": b"a picture", "cut": whole[:-9], "empty": b""}[kind])
    with pytest.raises(ModelFileError, match=r"t\.onnx: (No such|not a plain|not an ONNX model)"):
        load_teacher(path)


@pytest.mark.parametrize(
    ("labels", "channels", "described", "message"),
    [
        (
            ("a", "b", "c"),
            3,
            {"labels": LABELS},
            "a teacher of the classes circle, .*, expected those of the",
        ),
        (("a", "b"), 3, {}, "a teacher with 3 outputs, expected one for each class of the data: a"),
        (LABELS, 1, {}, "a teacher with 3 channels, expected the student's 1"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    write_teacher: Write,
    tmp_path: Path,
    labels: tuple[str, ...],
    channels: int,
    described: dict[str, Any],
    message: str,
) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "t.onnx", WEIGHTS, SPEC | described))
    with pytest.raises(ModelFileError, match=rf"t\.onnx: {message}"):
        Teachers([teacher], labels, channels)


def test_outputs_without_names_are_noted(
    write_teacher: Write, tmp_path: Path, tiny_network: Callable[..., NetworkConfig]
) -> None:
    teacher = load_teacher(write_teacher(tmp_path / "t.onnx", WEIGHTS, SPEC))
    (note,) = teacher_notes(teacher, tiny_network(), LABELS)
    assert "names no classes, its 3 outputs are taken for circle, square, triangle;" in note


# --- in a training --------------------------------------------------------------------------------


def test_a_student_resumes_with_the_same_model_and_no_other(
    write_teacher: Write,
    train_tiny: Callable[..., Checkpoint],
    tmp_path: Path,
    outcome: Callable[[Path], dict[str, Any]],
    stop_after: Any,
) -> None:
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=0.02)
    path = write_teacher(tmp_path / "t.onnx", WEIGHTS, SPEC)
    train_tiny(tmp_path / "whole", recipe=recipe, teachers=[load_teacher(path)])
    run = tmp_path / "parts"
    with pytest.raises(TrainingStoppedError):
        train_tiny(run, recipe=recipe, teachers=[load_teacher(path)], should_stop=stop_after(13))
    write_teacher(path, WEIGHTS, SPEC | {"std": 0.25})
    with pytest.raises(TrainingError, match="was trained with different teachers"):
        train_tiny(run, recipe=recipe, teachers=[load_teacher(path)])
    write_teacher(path, 2 * WEIGHTS, SPEC)
    with pytest.raises(TrainingError, match="was trained with different teachers"):
        train_tiny(run, recipe=recipe, teachers=[load_teacher(path)])
    moved = write_teacher(tmp_path / "moved.onnx", WEIGHTS, SPEC)
    train_tiny(run, recipe=recipe, teachers=[load_teacher(moved)])
    assert outcome(run) == outcome(tmp_path / "whole")


def test_a_student_learns_the_models_predictions(
    write_teacher: Write, shapes: Dataset, train_tiny: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    # A teacher with every class wrong: the student that learns from it alone is wrong, too.
    weights = np.roll(np.float32([[9, -3, -3], [-3, 9, -3], [-3, -3, 9]]), 1, axis=1)
    teacher = load_teacher(write_teacher(tmp_path / "t.onnx", weights, SPEC))
    taught = Teachers([teacher], LABELS, 3)(torch.from_numpy(shapes.images[shapes.test]))
    agreement = []
    for weight in (0.0, 1.0):
        recipe = Recipe(epochs=4, batch_size=16, distill_weight=weight)
        student = train_tiny(tmp_path / f"{weight}", recipe=recipe, teachers=[teacher])
        logits = predict.logits(
            student.network(), student.preprocessing, shapes.images, shapes.test
        )
        agreement.append(float((logits.argmax(1) == taught.argmax(1).numpy()).mean()))
    assert agreement[1] > 0.8 > 0.5 > agreement[0]


def test_the_time_of_a_model_counts_as_work(
    write_teacher: Write, tmp_path: Path, tiny_network: Callable[..., NetworkConfig]
) -> None:
    path, free = tmp_path / "t.onnx", ("n", 3, "h", "w")
    slow = load_teacher(write_teacher(path, WEIGHTS, SPEC | {"size": 512}, shape=free))
    fast = load_teacher(write_teacher(path, WEIGHTS, SPEC | {"size": 16}, shape=free))
    assert isinstance(slow, OnnxTeacher)
    assert isinstance(fast, OnnxTeacher)
    assert slow.seconds_per_image > fast.seconds_per_image > 0
    cpu = torch.device("cpu")
    assert teachers_work([slow], tiny_network(), cpu) > teachers_work([fast], tiny_network(), cpu)
    assert teachers_work([], tiny_network(), cpu) == 0

"""What callers hand to a classifier: arrays of every layout, tensors, NumPy's numbers, copies."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nin_edge_runtime import Classifier, ImageError, Prediction
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.image import load_image
from nin_edge_runtime.video import frames


class Tensor:
    """Converts to an array, as torch's tensors do, or fails to."""

    def __init__(self, array: np.ndarray | None) -> None:
        self.array = array

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        if self.array is None:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.array


class Odd:
    """An object whose every attribute fails."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no such thing")


GREY = golden_image(4, 48, 64)[:, :, :1]
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "wide": lambda grey: grey,
    "tall": lambda grey: grey.transpose(1, 0, 2),
    "two axes": lambda grey: grey[:, :, 0],
    "a channel of three": lambda grey: np.repeat(grey, 3, axis=2)[:, :, 1:2],
    "cropped": lambda grey: grey[3:-2, 5:-1],
    "upside down": lambda grey: grey[::-1],
    "every second column": lambda grey: grey[:, ::2],
    "one row": lambda grey: grey[:1],
    "one row repeated": lambda grey: np.broadcast_to(grey[:1], grey.shape),
    "Fortran's order": np.asfortranarray,
    "a subclass": lambda grey: np.ma.masked_array(grey),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_grey_arrays_of_every_layout_equal_their_rgb_ones(
    classify: Classifier, layout: str
) -> None:
    grey = LAYOUTS[layout](GREY)
    rgb = load_image(np.array(grey))
    expected = classify(rgb)
    for prediction in (classify(grey), *classify.batch([grey]), *classify.stream([grey])):
        assert isinstance(prediction, Prediction)
        assert prediction.crop == expected.crop
        np.testing.assert_array_equal(prediction.probabilities, expected.probabilities)


def test_a_matrix_is_an_array_of_two_axes(classify: Classifier) -> None:
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.asmatrix(GREY[:, :, 0])
    assert classify(matrix).label == classify(GREY).label


def test_what_converts_to_an_array_is_taken_as_one(classify: Classifier) -> None:
    image = golden_image(0, 16, 16)
    assert classify(Tensor(image)).score == classify(image).score  # type: ignore[arg-type]
    np.testing.assert_array_equal(load_image(Tensor(image)), image)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Tensor(None), r"^Tensor: cannot be converted .*cuda:0"),
        (Tensor(np.zeros((3, 8, 8), np.uint8)), r"\(3, 8, 8\): .* array.transpose\(1, 2, 0\)"),
        (Tensor(np.zeros((8, 8, 3), np.float32)), "array of float32 .* expected uint8"),
        (np.uint8(3), r"array of uint8 with shape \(\)"),
        (["photo.jpg"], "^list: expected a path"),
        (5, "^int: expected a path"),
        (Odd(), "^Odd: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_fails_in_loading_is_an_image_error_and_an_item_of_a_stream(
    classify: Classifier, image: Any, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        classify(image)
    before, error, after = classify.stream([GREY, image, GREY])
    assert isinstance(error, ImageError)
    assert isinstance(before, Prediction)
    assert isinstance(after, Prediction)


def test_an_unforeseen_failure_is_one_too(
    classify: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(np, "ascontiguousarray", fail)
    with pytest.raises(ImageError, match=r"ndarray: cannot be loaded \(no room\)"):
        classify(GREY)


@pytest.mark.parametrize(
    "one",
    [
        *(np.zeros(shape, np.uint8) for shape in ((8, 9), (8, 9, 3), (8, 9, 1), (900,), ())),
        np.zeros((4, 5), np.float32),
        io.BytesIO(b"image"),
        memoryview(b"image"),
        Image.new("RGB", (4, 4)),
        {"a.jpg": np.zeros((8, 9, 3), np.uint8)},  # would give its keys
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}",
)
def test_one_array_or_file_is_not_several(classify: Classifier, one: Any) -> None:
    for take in (classify.batch, classify.stream):
        with pytest.raises(TypeError, match="expected several images"):
            take(one)


def test_an_open_file_is_not_several(classify: Classifier, photo: Path) -> None:
    with photo.open("rb") as file, pytest.raises(TypeError, match="expected several images"):
        classify.stream(file)


def test_arrays_of_images_and_of_paths_are_several(classify: Classifier, photo: Path) -> None:
    stacked = np.stack([golden_image(seed, 16, 16) for seed in range(2)])
    paths = np.array([str(photo)] * 2)
    for several in (stacked, stacked[..., 0], paths, paths.astype(object), iter(stacked)):
        assert len(list(classify.stream(several))) == 2  # type: ignore[arg-type]


class Camera:
    """Gives frames, and has OpenCV's `read`; it is no file."""

    def read(self) -> tuple[bool, np.ndarray]:
        return True, GREY

    def __iter__(self) -> Any:
        return iter([GREY, GREY])


def test_a_camera_that_can_be_iterated_over_is_several(classify: Classifier) -> None:
    assert len(list(classify.stream(Camera()))) == 2


def test_numpys_numbers_are_numbers(tiny_model: Path, photo: Path) -> None:
    classify = Classifier(
        tiny_model,
        provider="cpu",
        threads=np.int64(1),  # type: ignore[arg-type]
        min_score=np.float32(0.999),  # type: ignore[arg-type]
        max_pixels=np.uint32(10_000_000),  # type: ignore[arg-type]
    )
    two, one = np.int16(2), np.uint8(1)
    results = list(classify.stream([photo] * 3, batch_size=two, workers=one))  # type: ignore[arg-type]
    assert len(results) == 3
    assert len(results[0].top(two)) == 2  # type: ignore[union-attr, arg-type]
    frames(np.int64(99), every=np.int64(2)).close()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threads", np.float64(2)), ("threads", np.array([1, 2])), ("max_pixels", "9")),
        *(("min_score", "0.5"), ("min_score", np.nan), ("min_score", [0.5])),
    ],
)
def test_what_is_no_number_is_refused(tiny_model: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*: expected a"):
        Classifier(tiny_model, **{name: value})


@pytest.mark.parametrize("name", ["batch_size", "workers"])
@pytest.mark.parametrize("value", [1.5, "2", None])
def test_a_stream_takes_whole_numbers(classify: Classifier, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*: expected a whole number"):
        classify.stream([], **{name: value})


@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, "pickle"])
def test_copies_load_the_model_again_with_the_same_settings(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, as_bytes: bool, again: Any
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    model = tiny_model.read_bytes() if as_bytes else tiny_model.name
    classify = Classifier(model, provider="cpu", threads=1, min_score=0.99, max_pixels=3_000)
    monkeypatch.chdir(os.sep)  # as another process may be
    same = pickle.loads(pickle.dumps(classify)) if again == "pickle" else again(classify)
    assert same is not classify
    expected, prediction = classify(GREY[:40]), same(GREY[:40])
    assert prediction.unknown is expected.unknown is True
    np.testing.assert_array_equal(prediction.probabilities, expected.probabilities)
    with pytest.raises(ImageError, match="more than the 3,000 allowed"):
        same(GREY)

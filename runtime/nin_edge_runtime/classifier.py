"""The classifier: from any image to a prediction, with one model file."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from nin_edge_runtime.errors import ImageError, ModelFileError
from nin_edge_runtime.image import MAX_PIXELS, ImageSource
from nin_edge_runtime.model_file.read import model_name, read_model
from nin_edge_runtime.preprocessing import center_crop_box
from nin_edge_runtime.session import ModelSession
from nin_edge_runtime.streaming import stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nin_edge_runtime.model_file import ModelInfo

DEFAULT_MODEL: Final = Path(__file__).parent / "models" / "nin-cifar10.int8.onnx"
"""The model that ships with the runtime, used where none is named."""

_logger = logging.getLogger(__name__)

# An image as the network sees it, uint8 (S, S, C), and its original (height, width).
_Row: TypeAlias = "tuple[NDArray[np.uint8], tuple[int, int]]"


@dataclass(frozen=True, eq=False, slots=True)
class Prediction:
    """The network's prediction for one image."""

    label: str
    """The most probable class."""
    score: float
    """Its probability, 0 to 1."""
    unknown: bool
    """Whether the score is below the classifier's `min_score`; the label stands all the same."""
    labels: tuple[str, ...]
    """All K classes, in the order of `probabilities`."""
    probabilities: NDArray[np.float32]
    """(K,), summing to 1."""
    class_map: NDArray[np.float32]
    """(h, w), the class activation map of the label, unscaled; its mean is the label's logit."""
    crop: tuple[int, int, int, int]
    """The square the network saw: (left, top, right, bottom) in pixels of the upright image."""

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes with their probabilities, the best first."""
        order = np.argsort(-self.probabilities, kind="stable")[: max(0, count)]
        return [(self.labels[index], float(self.probabilities[index])) for index in order]


class Classifier:
    """Classifies images with one model file.

    One classifier may be used from many threads at once. It does not survive `fork`: create it in
    the child.

        >>> classify = Classifier()
        >>> classify("photo.jpg").label
        'cat'
    """

    name: str
    """What messages call the model: its path, or its size where it came as bytes."""
    info: ModelInfo
    """The model's metadata."""
    provider: str
    """The active provider: `cpu` or `cuda`."""

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        spin: bool = False,
        arena: bool = True,
        tf32: bool = False,
        min_score: float | None = None,
        draft: bool = True,
        max_pixels: int = MAX_PIXELS,
        max_value: int | None = None,
    ) -> None:
        """Load a model, start its session, and run it once, so that no call pays for the first.

        Args:
            model: path or bytes of an `.onnx` file from `nin-edge export`; the default model if
                None.
            provider: `auto`, `cpu` or `cuda`; see `providers.create_session`.
            threads: threads of one inference on the CPU; those that are usable here if None.
            spin: let idle threads wait busily for the next inference, which takes CPU time from
                other work.
            arena: let the session keep the memory of an inference for the next one.
            tf32: let CUDA round the inputs of fp32 convolutions to 10 bits, which is faster.
            min_score: probability, 0 to 1, below which a prediction counts as unknown; None for
                never.
            draft: decode large JPEGs at a reduced scale; see `Preprocessing.load`.
            max_pixels: largest image that is taken, in pixels.
            max_value: sample that is white in grey images of more than 8 bits; see `load_image`.

        Raises:
            ModelFileError: the file is missing, damaged, foreign or newer.
            ProviderError: the provider is unknown or not active.
            MissingDependencyError: ONNX Runtime is not installed.
            ValueError: `threads`, `min_score`, `max_pixels` or `max_value` is out of its range.
        """
        if min_score is not None and not (
            isinstance(min_score, (int, float)) and 0 <= min_score <= 1
        ):
            raise ValueError(f"min_score is {min_score!r}: expected a probability, 0 to 1")
        if not isinstance(max_pixels, int) or max_pixels < 1:
            raise ValueError(f"max_pixels is {max_pixels!r}: expected a whole number, at least 1")
        if max_value is not None and not (isinstance(max_value, int) and max_value >= 1):
            raise ValueError(f"max_value is {max_value!r}: expected a whole number, at least 1")
        source = DEFAULT_MODEL if model is None else model
        data, info = read_model(source)
        self._session = ModelSession(
            data,
            info,
            model_name(source),
            provider=provider,
            threads=threads,
            spin=spin,
            arena=arena,
            tf32=tf32,
        )
        self.name, self.info, self.provider = self._session.name, info, self._session.provider
        if min_score is not None and info.temperature == 1.0:
            _logger.warning("min_score: the probabilities of this model were never calibrated")
        self._min_score = min_score or 0.0
        self._draft, self._max_pixels, self._max_value = draft, max_pixels, max_value

    @property
    def labels(self) -> tuple[str, ...]:
        """The K classes, in the order of the outputs."""
        return self.info.labels

    def __call__(self, image: ImageSource, *, bgr: bool = False) -> Prediction:
        """Classify one image.

        Args:
            image: path, encoded bytes, binary file, PIL image, or uint8 array (H, W, 3), (H, W, 1)
                or (H, W).
            bgr: the array's channels are in OpenCV's order.

        Raises:
            ImageError: not an image that can be read; the message names it.
        """
        pixels, size = self._load(image, bgr=bgr)
        return self._predict(pixels[np.newaxis], (size,))[0]

    def batch(self, images: Sequence[ImageSource], *, bgr: bool = False) -> list[Prediction]:
        """Classify images of any sizes in one run of the network, in their order.

        Args:
            images: each as in a single call.
            bgr: for the arrays among them.

        Raises:
            ImageError: one of them cannot be read; the message gives its index, and none is
                classified.
            TypeError: one image is given, not several.
        """
        _require_several(images)
        rows = []
        for index, image in enumerate(images):
            try:
                rows.append(self._load(image, bgr=bgr))
            except ImageError as error:
                raise ImageError(f"image {index}: {error}") from error
        return self._predict_rows(rows)

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 1,
        workers: int = 0,
        bgr: bool = False,
    ) -> Generator[Prediction | ImageError, None, None]:
        """Classify an iterable, endless ones too, `batch_size` images at a time.

        Args:
            images: each as in a single call. An array must not change before its prediction came.
            batch_size: images of one run of the network; a prediction waits until they are there.
            workers: threads that decode and classify side by side, best with a classifier of one
                thread. `images` is then read ahead, by up to `2 * workers * batch_size` images
                before the first prediction: good for files, not for a camera. With 0, each image
                is read and classified in the caller's thread when its prediction is asked for.
            bgr: for the arrays among them.

        Returns:
            A generator which gives, in order, a prediction for each image, or the `ImageError` of
            one that cannot be read. Closing it ends the threads and lets go of `images`.

        Raises:
            TypeError: one image is given, not an iterable of them.
            ValueError: `batch_size` or `workers` is out of its range.
        """
        _require_several(images)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected at least 1")
        if workers < 0:
            raise ValueError(f"workers is {workers}: expected 0 or more")
        classify = partial(self._classify, bgr=bgr)
        return stream(images, classify, batch_size=batch_size, workers=workers)

    def graph_probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (K,) of an RGB array (H, W, 3), prepared by the graph as far as it can.

        Calls, batches and streams crop and resize with Pillow, as training does. This tests the
        graph's own steps, too; see `ModelSession.graph_probabilities`.
        """
        return self._session.graph_probabilities(pixels)

    def _classify(
        self, images: Sequence[ImageSource], *, bgr: bool
    ) -> list[Prediction | ImageError]:
        """A prediction or an error for each of a few images, by one run of the network."""
        loaded: list[_Row | ImageError] = []
        for image in images:
            try:
                loaded.append(self._load(image, bgr=bgr))
            except ImageError as error:
                loaded.append(error)
        predictions = iter(self._predict_rows([row for row in loaded if isinstance(row, tuple)]))
        return [next(predictions) if isinstance(row, tuple) else row for row in loaded]

    def _load(self, image: ImageSource, *, bgr: bool) -> _Row:
        return self.info.preprocessing.load(
            image,
            bgr=bgr,
            max_pixels=self._max_pixels,
            max_value=self._max_value,
            draft=self._draft,
        )

    def _predict_rows(self, rows: list[_Row]) -> list[Prediction]:
        if not rows:
            return []
        return self._predict(np.stack([pixels for pixels, _ in rows]), [size for _, size in rows])

    def _predict(
        self, pixels: NDArray[np.uint8], sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Predictions for images as the network sees them, (N, S, S, C), once (height, width)."""
        probabilities, maps = self._session.run(pixels)
        labels = self.info.labels
        predictions = []
        for row, (height, width) in enumerate(sizes):
            best = int(probabilities[row].argmax())
            score = float(probabilities[row, best])
            if math.isnan(score):  # argmax stops at the first NaN
                raise ModelFileError(f"{self.name}: outputs NaN; its weights are broken")
            predictions.append(
                Prediction(
                    label=labels[best],
                    score=score,
                    unknown=score < self._min_score,
                    labels=labels,
                    probabilities=probabilities[row],
                    class_map=maps[row, best].copy(),  # a view would keep all maps alive
                    crop=center_crop_box(height, width),
                )
            )
        return predictions


def _require_several(images: object) -> None:
    """Refuse what can be iterated over, but is one image: a path would give its letters."""
    if isinstance(images, (str, bytes, bytearray, os.PathLike)) or not hasattr(images, "__iter__"):
        raise TypeError(f"{type(images).__name__}: expected several images, as a list of them")

"""The classifier: a model file and a session, from any image to a prediction."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from nin_edge_runtime.errors import ImageError, ModelFileError, NinEdgeError
from nin_edge_runtime.image import ImageSource, center_crop_box, load_image
from nin_edge_runtime.metadata import ModelInfo, read_model
from nin_edge_runtime.providers import create_session, runs_half_slowly

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_MODEL: Final = Path(__file__).parent / "models" / "nin-cifar10.int8.onnx"
"""The model that ships with the runtime, used where none is named."""

_logger = logging.getLogger(__name__)

_OUTPUTS: Final = ("probabilities", "class_maps")

# A prepared image, and the height and width it had.
_Row: TypeAlias = "tuple[NDArray[Any], tuple[int, int]]"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one image."""

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
    """(h, w), the map of the best class before the average, unscaled: large where the class is."""
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

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        min_score: float | None = None,
    ) -> None:
        """Load a model and start its session.

        Args:
            model: path or bytes of an `.onnx` file from `nin-edge export`; the default model if
                None.
            provider: `auto`, `cpu` or `cuda`; see `providers.create_session`.
            threads: threads of one inference on the CPU; those that are usable here if None.
            min_score: probability, 0 to 1, below which a prediction counts as unknown; None for
                never.

        Raises:
            ModelFileError: the file is missing, damaged, foreign or newer.
            ProviderError: the provider is unknown or not active.
            MissingDependencyError: ONNX Runtime is not installed.
            ValueError: `threads` or `min_score` is out of its range.
        """
        if min_score is not None and not 0 <= min_score <= 1:
            raise ValueError(f"min_score is {min_score}: expected a probability, 0 to 1")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}: expected at least 1")
        source = DEFAULT_MODEL if model is None else model
        data, self.info = read_model(source)
        self.name = (
            f"model of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
        )
        self._session, self.provider = create_session(
            data, self.name, provider=provider, threads=threads
        )
        if self.info.precision == "fp16" and runs_half_slowly(self.provider):
            _logger.warning(
                "%s: this ONNX Runtime is slow at fp16 on a CPU; the fp32 or int8 file is the "
                "better one here",
                self.name,
            )
        rows = self._session.get_inputs()[0].shape[0]
        self._fixed_batch = rows if isinstance(rows, int) else None
        self._min_score = min_score or 0.0
        if min_score is not None and self.info.temperature == 1.0:
            _logger.warning("min_score: the probabilities of this model were never calibrated")
        self._process = os.getpid()

    name: str
    """What the model is called in messages: its path, or its size where it came as bytes."""
    info: ModelInfo
    """What the model file says of itself."""
    provider: str
    """The active provider: `cpu` or `cuda`."""

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
        pixels = load_image(image, bgr=bgr)
        height, width, _ = pixels.shape
        fed = pixels if self.info.embedded == "full" else self._prepared(pixels)
        return self._run(fed[np.newaxis], [(height, width)])[0]

    def batch(self, images: Sequence[ImageSource], *, bgr: bool = False) -> list[Prediction]:
        """Classify images of any sizes in one run of the network, in their order.

        Each is cropped and resized by Pillow first. The graph's own resize, which single images
        take, rounds a few bytes otherwise, so probabilities can differ in the last digits.

        Raises:
            ImageError: one of them cannot be read; the message gives its index, and none is
                classified.
        """
        rows = []
        for index, image in enumerate(images):
            try:
                rows.append(self._row(image, bgr=bgr))
            except ImageError as error:
                raise ImageError(f"image {index}: {error}") from error
        return self._run_rows(rows)

    def stream(
        self, images: Iterable[ImageSource], *, batch_size: int = 1, bgr: bool = False
    ) -> Iterator[Prediction | ImageError]:
        """Classify an iterable, endless ones too, `batch_size` images at a time, as `batch` does.

        Yields:
            In order, a prediction for each image, or the `ImageError` of one that cannot be read.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected at least 1")
        group: list[_Row | ImageError] = []
        for image in images:
            try:
                group.append(self._row(image, bgr=bgr))
            except ImageError as error:
                group.append(error)
            if len(group) == batch_size:
                yield from self._in_place(group)
                group = []
        yield from self._in_place(group)

    def _in_place(self, group: list[_Row | ImageError]) -> Iterator[Prediction | ImageError]:
        """Predictions of a group's images, its errors left where they are."""
        rows = [item for item in group if not isinstance(item, ImageError)]
        predictions = iter(self._run_rows(rows))
        for item in group:
            yield item if isinstance(item, ImageError) else next(predictions)

    def _row(self, image: ImageSource, *, bgr: bool) -> _Row:
        """An image as one row of a batch, and the size it had."""
        pixels = load_image(image, bgr=bgr)
        return self._prepared(pixels), (pixels.shape[0], pixels.shape[1])

    def _run_rows(self, rows: list[_Row]) -> list[Prediction]:
        if not rows:
            return []
        return self._run(np.stack([row for row, _ in rows]), [size for _, size in rows])

    def _prepared(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """RGB pixels (H, W, 3) as one row of the graph's input, at the network's own size."""
        preprocessing, embedded = self.info.preprocessing, self.info.embedded
        resized = preprocessing.resize(pixels)  # (S, S, C)
        if embedded == "none":
            normalized: NDArray[np.float32] = preprocessing.normalize(resized[np.newaxis])[0]
            return normalized  # (C, S, S)
        # The graph takes RGB; it gives equal channels back as the luma that they are.
        return resized if resized.shape[2] == 3 else np.repeat(resized, 3, axis=2)

    def _run(self, fed: NDArray[Any], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Run the graph on a prepared batch whose images had the given (height, width)."""
        if os.getpid() != self._process:
            raise NinEdgeError(
                "a Classifier does not survive fork: create it in the process that uses it"
            )
        probabilities, maps = self._infer(np.ascontiguousarray(fed))
        predictions = []
        for row, (height, width) in enumerate(sizes):
            best = int(probabilities[row].argmax())
            score = float(probabilities[row, best])
            if math.isnan(score):  # argmax stops at the first that is none
                raise ModelFileError(
                    f"{self.name}: answers with no numbers; its weights are broken"
                )
            predictions.append(
                Prediction(
                    label=self.labels[best],
                    score=score,
                    unknown=score < self._min_score,
                    labels=self.labels,
                    probabilities=probabilities[row],
                    class_map=maps[row, best].copy(),  # a view would keep all maps alive
                    crop=center_crop_box(height, width),
                )
            )
        return predictions

    def _infer(self, fed: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The graph's outputs for any number of rows, also where the model fixes that number."""
        fixed = self._fixed_batch
        if fixed is None or len(fed) == fixed:
            probabilities, maps = self._session.run(_OUTPUTS, {"image": fed})
            return probabilities, maps
        parts = []
        for start in range(0, len(fed), fixed):
            rows = fed[start : start + fixed]
            empty = np.zeros((fixed - len(rows), *fed.shape[1:]), fed.dtype)
            parts.append(self._session.run(_OUTPUTS, {"image": np.concatenate([rows, empty])}))
        probabilities, maps = (
            np.concatenate(output)[: len(fed)] for output in zip(*parts, strict=True)
        )
        return probabilities, maps

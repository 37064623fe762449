"""The classifier: from any image to a prediction, with one model file."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from nin_edge_runtime.arguments import probability, whole_number
from nin_edge_runtime.errors import ImageError
from nin_edge_runtime.image import MAX_PIXELS, ImageSource, as_array, check_array
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

_IMAGES: Final = "uint8 (N, H, W, 3), RGB, at least one image"

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


@dataclass(frozen=True, eq=False, slots=True)
class GraphOutputs:
    """What the graph gives for a batch."""

    probabilities: NDArray[np.float32]
    """(N, K), each row summing to 1."""
    class_maps: NDArray[np.float32]
    """(N, K, h, w), the class activation maps, unscaled."""


class Classifier:
    """Classifies images with one model file.

    One classifier may be used from many threads at once. It does not survive `fork`: create it in
    the child. A copy, and what another process unpickles, loads the model again from its path or
    bytes, with the same settings.

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
            max_value: sample that is white in images of more than 8 bits; see `load_image`.

        Raises:
            ModelFileError: the file is missing, damaged, foreign or newer.
            ProviderError: the provider is unknown or not active.
            MissingDependencyError: ONNX Runtime is not installed.
            ValueError: `threads`, `min_score`, `max_pixels` or `max_value` is out of its range.
        """
        if min_score is not None:
            min_score = probability("min_score", min_score)
        max_pixels = whole_number("max_pixels", max_pixels, 1)
        if max_value is not None:
            max_value = whole_number("max_value", max_value, 1)
        source = DEFAULT_MODEL if model is None else model
        data, info = read_model(source)
        session = partial(
            ModelSession,
            provider=provider,
            threads=threads,
            spin=spin,
            arena=arena,
            tf32=tf32,
        )
        self._session = session(data, info, model_name(source))
        if isinstance(model, (str, os.PathLike)):  # another process may be in another folder
            model = Path(model).absolute()
        self._again = partial(
            type(self),
            model,
            min_score=min_score,
            draft=draft,
            max_pixels=max_pixels,
            max_value=max_value,
            **session.keywords,
        )
        self.name, self.info, self.provider = self._session.name, info, self._session.provider
        if min_score is not None and info.temperature == 1.0:
            _logger.warning("min_score: the probabilities of this model were never calibrated")
        self._min_score = min_score or 0.0
        self._draft, self._max_pixels, self._max_value = draft, max_pixels, max_value

    def __reduce__(self) -> tuple[partial[Classifier], tuple[()]]:
        """Pickle and copy the settings: a running session can be neither."""
        return self._again, ()

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
            one that cannot be read. Closing it ends the threads, but for one that is blocked in a
            read, and lets go of `images`.

        Raises:
            TypeError: one image is given, not an iterable of them.
            ValueError: `batch_size` or `workers` is out of its range.
        """
        _require_several(images)
        batch_size = whole_number("batch_size", batch_size, 1)
        workers = whole_number("workers", workers, 0)
        classify = partial(self._classify, bgr=bgr)
        return stream(images, classify, batch_size=batch_size, workers=workers)

    def graph(self, images: NDArray[np.uint8]) -> GraphOutputs:
        """Run the whole graph once on a batch of arrays of one size, for servers.

        The graph crops and resizes by itself, so this is what programs in other languages get from
        the file. Calls, batches and streams crop and resize with Pillow, as training does: the
        probabilities of images that are not S x S differ slightly. On CUDA, and in files whose
        graph lacks these steps, Pillow does them here, too.

        Args:
            images: RGB, uint8 (N, H, W, 3), at least one.

        Raises:
            ImageError: not such an array, or larger images than `max_pixels`.
        """
        array = as_array(images)
        if array is None:
            raise ImageError(f"{type(images).__name__}: expected {_IMAGES}")
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not array.size:
            raise ImageError(f"array of {array.dtype} with shape {array.shape}: expected {_IMAGES}")
        check_array(array[0], self._max_pixels)
        return GraphOutputs(*self._session.graph(array))

    def _classify(
        self, images: Sequence[ImageSource], *, bgr: bool
    ) -> list[Prediction | ImageError]:
        """A prediction or an error for each of a few images, by one run of the network."""
        loaded: list[_Row | ImageError] = []
        for image in images:
            try:
                loaded.append(self._load(image, bgr=bgr))
            except ImageError as error:
                # A new one: this one's traceback holds on to the image as far as it was decoded.
                loaded.append(ImageError(*error.args))
        predictions = iter(self._predict_rows([row for row in loaded if isinstance(row, tuple)]))
        return [next(predictions) if isinstance(row, tuple) else row for row in loaded]

    def _load(self, image: ImageSource, *, bgr: bool) -> _Row:
        try:
            return self.info.preprocessing.load(
                image,
                bgr=bgr,
                max_pixels=self._max_pixels,
                max_value=self._max_value,
                draft=self._draft,
            )
        except ImageError:
            raise
        except Exception as error:  # in a stream, one image must not be the end of the others
            raise ImageError(f"{type(image).__name__}: cannot be loaded ({error})") from error

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
    """Refuse what can be iterated over, but not by images: a path would give its letters."""
    name, shape = type(images).__name__, getattr(images, "shape", None)
    if isinstance(shape, tuple):  # of pixels, of images, or of paths and other objects
        name = f"{name} of shape {tuple(shape)}"
        of_objects = getattr(getattr(images, "dtype", None), "kind", "") in ("O", "U", "S")
        one = not of_objects and (len(shape) < 3 or (len(shape) == 3 and shape[2] in (1, 3)))
    else:
        one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Mapping)) or (
            hasattr(images, "read") and hasattr(images, "readline")  # a file gives its lines
        )
    if one or not hasattr(images, "__iter__"):
        raise TypeError(f"{name}: expected several images, as a list of them")

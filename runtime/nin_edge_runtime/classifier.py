"""The classifier: a model file and a session, from any image to a prediction."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from nin_edge_runtime.errors import ImageError, ModelFileError, NinEdgeError, ProviderError
from nin_edge_runtime.image import MAX_PIXELS, ImageSource
from nin_edge_runtime.model_file.read import ModelInfo, read_model
from nin_edge_runtime.preprocessing import center_crop_box
from nin_edge_runtime.providers import create_session, cuda_is_required, fp16_is_slow

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

DEFAULT_MODEL: Final = Path(__file__).parent / "models" / "nin-cifar10.int8.onnx"
"""The model that ships with the runtime, used where none is named."""

_logger = logging.getLogger(__name__)

_OUTPUTS: Final = ("probabilities", "class_maps")

# An image as the network sees it, uint8 (S, S, C), and the (height, width) it had.
_Row: TypeAlias = "tuple[NDArray[np.uint8], tuple[int, int]]"


@dataclass(frozen=True, eq=False, slots=True)
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
        spin: bool = False,
        arena: bool = True,
        tf32: bool = False,
        min_score: float | None = None,
        draft: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Load a model, start its session, and run it once, so that no call pays for the first.

        Args:
            model: path or bytes of an `.onnx` file from `nin-edge export`; the default model if
                None.
            provider: `auto`, `cpu` or `cuda`; see `providers.create_session`.
            threads: threads of one inference on the CPU; those that are usable here if None.
            spin: let idle threads wait busily for the next inference, which costs others the CPU.
            arena: let the session keep the memory of an inference for the next one.
            tf32: let CUDA round the inputs of fp32 convolutions to 10 bits, which is faster.
            min_score: probability, 0 to 1, below which a prediction counts as unknown; None for
                never.
            draft: decode large JPEGs at a reduced scale; see `Preprocessing.load`.
            max_pixels: largest image that is taken, in pixels.

        Raises:
            ModelFileError: the file is missing, damaged, foreign or newer.
            ProviderError: the provider is unknown or not active.
            MissingDependencyError: ONNX Runtime is not installed.
            ValueError: `threads`, `min_score` or `max_pixels` is out of its range.
        """
        if min_score is not None and not (
            isinstance(min_score, (int, float)) and 0 <= min_score <= 1
        ):
            raise ValueError(f"min_score is {min_score!r}: expected a probability, 0 to 1")
        for name, value, most in (("threads", threads, 1024), ("max_pixels", max_pixels, None)):
            if value is None and name == "threads":
                continue
            if not isinstance(value, int) or value < 1 or value > (most or value):
                above = "at least 1" if most is None else f"1 to {most}"
                raise ValueError(f"{name} is {value!r}: expected a whole number, {above}")
        source = DEFAULT_MODEL if model is None else model
        data, self.info = read_model(source)
        self.name = (
            f"model of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
        )
        start = partial(
            create_session, data, self.name, threads=threads, spin=spin, arena=arena, tf32=tf32
        )
        self._session, self.provider = start(provider=provider)
        if self.info.precision == "fp16" and fp16_is_slow(self.provider):
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
        self._draft, self._max_pixels = draft, max_pixels
        self._process = os.getpid()
        try:
            self._warm_up()
        except ModelFileError as error:
            if self.provider == "cpu":
                raise
            # CUDA can start and still not run: no cuDNN, no memory left, no kernel for that GPU.
            self._session, self.provider = start(provider="cpu")
            self._warm_up()  # raises where it is the model after all
            if cuda_is_required(provider):
                raise ProviderError(f"provider cuda: it starts, but {error}") from error
            _logger.warning("CUDA starts, but cannot run, going on with the CPU (%s)", error)

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
        pixels, size = self._load(image, bgr=bgr)
        return self._run(pixels[np.newaxis], (size,))[0]

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
        return self._run_rows(rows)

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
            images: each as in a single call. An array must not change before its answer came.
            batch_size: images of one run of the network; an answer waits until they are there.
            workers: threads that decode and classify side by side, best with a classifier of one
                thread. `images` is then read ahead, by up to `2 * workers * batch_size` images
                before the first answer: good for files, not for a camera. With 0, all is done
                here, when it is asked for.
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
        groups = _groups(images, batch_size)
        answers = (
            self._side_by_side(groups, workers, bgr=bgr)
            if workers
            else (self._classify(group, bgr=bgr) for group in groups)
        )
        return _flattened(answers)

    def _side_by_side(
        self, groups: Generator[list[ImageSource], None, None], workers: int, *, bgr: bool
    ) -> Generator[list[Prediction | ImageError], None, None]:
        """The answers of each group, in order, from as many threads as there are workers."""
        from concurrent.futures import ThreadPoolExecutor  # a cold start needs none

        pending: deque[Future[list[Prediction | ImageError]]] = deque()
        broken: Exception | None = None
        pool = ThreadPoolExecutor(workers, thread_name_prefix="nin-edge")
        try:
            while broken is None or pending:
                while broken is None and len(pending) < 2 * workers:
                    try:
                        pending.append(pool.submit(self._classify, next(groups), bgr=bgr))
                    except Exception as error:  # the source's end too: what came before goes first
                        broken = error
                if pending:
                    yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
        if not isinstance(broken, StopIteration):
            raise broken

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
        predictions = iter(self._run_rows([row for row in loaded if isinstance(row, tuple)]))
        return [next(predictions) if isinstance(row, tuple) else row for row in loaded]

    def _load(self, image: ImageSource, *, bgr: bool) -> _Row:
        return self.info.preprocessing.load(
            image, bgr=bgr, max_pixels=self._max_pixels, draft=self._draft
        )

    def graph_probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (K,) of an RGB array (H, W, 3), prepared by the graph as far as it can.

        Calls, batches and streams crop and resize with Pillow, as training does. The golden samples
        go this way, so that they try the steps in the graph as well. ONNX Runtime has no such
        `Resize` for CUDA: there, Pillow does these steps too.
        """
        fed = pixels[np.newaxis]
        if self.info.embedded != "full" or self.provider == "cuda":
            fed = self._feed(self.info.preprocessing.resize(pixels)[np.newaxis])
        probabilities: NDArray[np.float32] = self._infer(fed)[0][0]
        return probabilities

    def _warm_up(self) -> None:
        """Run the graph once; refuse one that does not answer as a classifier of its labels."""
        steps, count = self.info.preprocessing, len(self.labels)
        blank = np.zeros((1, steps.size, steps.size, steps.channels), np.uint8)
        try:
            probabilities, maps = self._infer(self._feed(blank))
        except NinEdgeError as error:
            raise ModelFileError(str(error)) from error
        if probabilities.shape != (1, count) or maps.ndim != 4 or maps.shape[:2] != (1, count):
            raise ModelFileError(
                f"{self.name}: answers with shapes {probabilities.shape} and {maps.shape}, "
                f"expected (1, {count}) and (1, {count}, h, w)"
            )

    def _run_rows(self, rows: list[_Row]) -> list[Prediction]:
        if not rows:
            return []
        return self._run(np.stack([pixels for pixels, _ in rows]), [size for _, size in rows])

    def _feed(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """The graph's input of images as the network sees them, uint8 (N, S, S, C)."""
        if self.info.embedded == "none":
            return self.info.preprocessing.normalize(pixels)  # (N, C, S, S)
        # The graph takes RGB; it gives equal channels back as the luma that they are.
        return pixels if pixels.shape[3] == 3 else np.repeat(pixels, 3, axis=3)

    def _run(self, pixels: NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Classify images as the network sees them, (N, S, S, C), of the given (height, width)."""
        probabilities, maps = self._infer(np.ascontiguousarray(self._feed(pixels)))
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
        if os.getpid() != self._process:
            raise NinEdgeError(
                "a Classifier does not survive fork: create it in the process that uses it"
            )
        try:
            return self._infer_parts(fed)
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise NinEdgeError(
                f"{self.name}: fails at an image of shape {fed.shape} "
                f"({' '.join(str(error).split())})"
            ) from error

    def _infer_parts(self, fed: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same, in runs of the fixed number."""
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


def _require_several(images: object) -> None:
    """Refuse what can be iterated over, but is one image: a path would give its letters."""
    if isinstance(images, (str, bytes, bytearray, os.PathLike)) or not hasattr(images, "__iter__"):
        raise TypeError(f"{type(images).__name__}: expected several images, as a list of them")


def _flattened(
    groups: Generator[list[Prediction | ImageError], None, None],
) -> Generator[Prediction | ImageError, None, None]:
    """The items of all groups; closing it closes what gives the groups."""
    try:
        for group in groups:
            yield from group
    finally:
        groups.close()


def _groups(images: Iterable[ImageSource], size: int) -> Generator[list[ImageSource], None, None]:
    """Images in lists of `size`, the last one shorter; also if the source breaks off."""
    source = iter(images)
    group: list[ImageSource] = []
    while True:
        try:
            group.append(next(source))
        except StopIteration:
            break
        except Exception:
            if group:
                yield group
            raise
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

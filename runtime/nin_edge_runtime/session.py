"""One model in ONNX Runtime: from pixels, as the network sees them, to the graph's outputs."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nin_edge_runtime.arguments import whole_number
from nin_edge_runtime.errors import ModelFileError, NinEdgeError, ProviderError
from nin_edge_runtime.providers import create_session, cuda_is_required, fp16_is_slow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nin_edge_runtime.model_file import ModelInfo

_OUTPUTS: Final = ("probabilities", "class_maps")
_MAX_THREADS: Final = 1024
_LOW, _HIGH = 0.99, 1.01  # of a row's sum; fp16 and int8 round their outputs in float32, too

_logger = logging.getLogger(__name__)


class ModelSession:
    """A running model. It takes a graph that was never sealed as a file, too.

    One session may be used from many threads at once. It does not survive `fork`.
    """

    name: str
    """What messages call the model."""
    info: ModelInfo
    """The model's metadata."""
    provider: str
    """The active provider: `cpu` or `cuda`."""
    fixed_batch: int | None
    """Images of one run, where the graph fixes their number; None for any number."""

    def __init__(
        self,
        data: bytes,
        info: ModelInfo,
        name: str,
        *,
        provider: str = "auto",
        threads: int | None = None,
        spin: bool = False,
        arena: bool = True,
        tf32: bool = False,
    ) -> None:
        """Start ONNX Runtime and run the graph once, so that no call pays for the first.

        Args:
            data: a serialised ONNX model that can be trusted; `read_model` checks a file.
            info: its labels, preprocessing and precision; its other fields may be empty.
            name: what messages call the model.
            provider: `auto`, `cpu` or `cuda`; see `providers.create_session`.
            threads: threads of one inference on the CPU; those that are usable here if None.
            spin: let idle threads wait busily for the next inference.
            arena: keep the memory of an inference for the next one.
            tf32: let CUDA round the inputs of fp32 convolutions to 10 bits, which is faster.

        Raises:
            ModelFileError: ONNX Runtime cannot load or run the graph, or its outputs do not fit the
                labels.
            ProviderError: the provider is unknown or not active.
            MissingDependencyError: ONNX Runtime is not installed.
            ValueError: `threads` is out of its range.
        """
        if threads is not None:
            threads = whole_number("threads", threads, 1, _MAX_THREADS)
        self.name, self.info = name, info
        start = partial(
            create_session, data, name, threads=threads, spin=spin, arena=arena, tf32=tf32
        )
        self._session, self.provider = start(provider=provider)
        if info.precision == "fp16" and fp16_is_slow(self.provider):
            _logger.warning(
                "%s: this ONNX Runtime is slow at fp16 on a CPU; the fp32 or int8 file is the "
                "better one here",
                name,
            )
        rows = self._session.get_inputs()[0].shape[0]
        self.fixed_batch = rows if isinstance(rows, int) else None
        self._process = os.getpid()
        try:
            self._warm_up()
        except ModelFileError as error:
            if self.provider == "cpu":
                raise
            # CUDA can start and still not run: no cuDNN, no memory left, no kernel for that GPU.
            self._session, self.provider = start(provider="cpu")
            self._warm_up()  # raises where the model is at fault after all
            if cuda_is_required(provider):
                raise ProviderError(f"provider cuda: it starts, but {error}") from error
            _logger.warning("CUDA starts, but cannot run, going on with the CPU (%s)", error)

    def run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities (N, K) and class maps (N, K, h, w) of images as the network sees them.

        Args:
            pixels: cropped and resized, uint8 (N, S, S, C).

        Raises:
            ModelFileError: the outputs are not probabilities.
            NinEdgeError: the graph fails, or the process was forked since the session started.
        """
        probabilities, maps = self._infer(np.ascontiguousarray(self._feed(pixels)))
        self._check_probabilities(probabilities)
        return probabilities, maps

    def graph(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities (N, K) and class maps (N, K, h, w), prepared by the graph as far as it can.

        `run` takes what Pillow cropped and resized, as in training. The golden samples go this
        way, so that they test the steps in the graph as well. ONNX Runtime has no such `Resize`
        for CUDA: there, Pillow does these steps too.

        Args:
            images: RGB, uint8 (N, H, W, 3), at least one.

        Raises:
            ModelFileError: the outputs are not probabilities.
            NinEdgeError: the graph fails, or the process was forked since the session started.
        """
        inputs = np.ascontiguousarray(images)
        if self.info.embedded != "full" or self.provider == "cuda":
            resize = self.info.preprocessing.resize
            inputs = self._feed(np.stack([resize(image) for image in images]))
        probabilities, maps = self._infer(inputs)
        self._check_probabilities(probabilities)
        return probabilities, maps

    def _warm_up(self) -> None:
        """Run the graph once; refuse one whose outputs are not those of a classifier."""
        steps, count = self.info.preprocessing, len(self.info.labels)
        blank = np.zeros((1, steps.size, steps.size, steps.channels), np.uint8)
        try:
            probabilities, maps = self._infer(self._feed(blank))
        except NinEdgeError as error:
            raise ModelFileError(str(error)) from error
        if probabilities.shape != (1, count) or maps.ndim != 4 or maps.shape[:2] != (1, count):
            raise ModelFileError(
                f"{self.name}: outputs of shapes {probabilities.shape} and {maps.shape}, "
                f"expected (1, {count}) and (1, {count}, h, w)"
            )
        self._check_probabilities(probabilities)
        if not np.isfinite(maps).all():
            raise ModelFileError(
                f"{self.name}: outputs class maps with NaN or infinity; its weights are broken"
            )

    def _check_probabilities(self, probabilities: NDArray[np.float32]) -> None:
        """Refuse what is no probability distribution; every run pays for it, so it is short.

        Of ten classes, Python's own sum takes a quarter of NumPy's time. It is NaN where a value
        is, and infinite where one is.
        """
        rows = probabilities.tolist()
        if all(min(row) >= 0 and _LOW <= sum(row) <= _HIGH for row in rows):
            return
        if np.isnan(probabilities).any():
            raise ModelFileError(f"{self.name}: outputs NaN; its weights are broken")
        sums = list(map(sum, rows))
        raise ModelFileError(
            f"{self.name}: outputs {probabilities.min():.3g} as the smallest probability and sums "
            f"of {min(sums):.3g} to {max(sums):.3g}, expected at least 0 and sums of 1"
        )

    def _feed(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """The graph's input of images as the network sees them, uint8 (N, S, S, C)."""
        if self.info.embedded == "none":
            return self.info.preprocessing.normalize(pixels)  # (N, S, S, C) -> (N, C, S, S)
        # The graph takes RGB; three equal channels have that channel as their luma.
        return pixels if pixels.shape[3] == 3 else np.repeat(pixels, 3, axis=3)

    def _infer(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The graph's outputs for any number of images."""
        if os.getpid() != self._process:
            raise NinEdgeError(
                "a Classifier does not survive fork: create it in the process that uses it"
            )
        try:
            return self._infer_parts(inputs)
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise NinEdgeError(
                f"{self.name}: fails at an image of shape {inputs.shape} "
                f"({' '.join(str(error).split())})"
            ) from error

    def _infer_parts(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same, in runs of the number that the graph fixes, if it does."""
        fixed = self.fixed_batch
        if fixed is None or len(inputs) == fixed:
            probabilities, maps = self._session.run(_OUTPUTS, {"image": inputs})
            return probabilities, maps
        parts = []
        for start in range(0, len(inputs), fixed):
            rows = inputs[start : start + fixed]
            padding = np.zeros((fixed - len(rows), *inputs.shape[1:]), inputs.dtype)
            parts.append(self._session.run(_OUTPUTS, {"image": np.concatenate([rows, padding])}))
        probabilities, maps = (
            np.concatenate(output)[: len(inputs)] for output in zip(*parts, strict=True)
        )
        return probabilities, maps

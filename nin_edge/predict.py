"""Predictions of any model over a data set: of a checkpoint in PyTorch, or of an exported file.

`batches` is the one loop over images, and `evaluate` scores a model on a split. The functions that
need torch import it themselves, so an exported model is scored where torch is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from nin_edge.data import Dataset, DatasetError, Progress, check_labels
from nin_edge.metrics import Scores, Tally, softmax
from nin_edge.weights import find_weights
from nin_edge_runtime.errors import ModelFileError, ProviderError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nin_edge.checkpoint import Checkpoint
    from nin_edge.network import NiN
    from nin_edge_runtime import Classifier
    from nin_edge_runtime.preprocessing import Preprocessing

# Pixels of a batch, 64 images of 32 x 32: full-width activations, and copies of them to find their
# ranges, stay below what a training step takes.
_BATCH_PIXELS: Final = 64 * 32 * 32


class Predictor(Protocol):
    """A model that gives probabilities."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The K classes, in the order of the outputs."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Size S and channels C of its images."""

    @property
    def engine(self) -> str:
        """What runs it: `PyTorch` or `ONNX Runtime`."""

    @property
    def precision(self) -> str:
        """`fp32`, `fp16` or `int8`."""

    @property
    def device(self) -> str:
        """Where it runs: `cpu` or `cuda`."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Images (N, S, S, C) to probabilities (N, K)."""


def open_predictor(model: str | os.PathLike[str], provider: str = "auto") -> Predictor:
    """Load a model.

    Args:
        model: a checkpoint (.safetensors), a run's folder, an exported model (.onnx), or the name
            of weights that ship with the toolkit.
        provider: `auto`, `cpu` or `cuda`.

    Raises:
        ModelFileError: no such file, or not a model.
        ProviderError: the provider is not active.
    """
    path = Path(model)
    if path.is_dir():
        path /= "best.safetensors"  # of a run
    path = path if path.suffix else find_weights(path)
    if path.suffix.lower() == ".safetensors":
        from nin_edge.checkpoint import Checkpoint

        checkpoint = Checkpoint.load(path)
        return TorchPredictor(checkpoint, name=str(path), device=torch_device(provider))
    if path.suffix.lower() == ".onnx":
        from nin_edge_runtime import Classifier

        return OnnxPredictor(Classifier(path, provider=provider))
    raise ModelFileError(f"{path}: expected a checkpoint (.safetensors) or a model (.onnx)")


class OnnxPredictor:
    """An exported model, run by ONNX Runtime."""

    engine = "ONNX Runtime"

    def __init__(self, classify: Classifier) -> None:
        """Predict with a classifier."""
        self._classify = classify
        self.name, self.labels = classify.name, classify.labels
        self.preprocessing = classify.info.preprocessing
        self.precision, self.device = classify.info.precision, classify.provider

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        """See `Predictor`."""
        return np.stack([each.probabilities for each in self._classify.batch(list(pixels))])


class TorchPredictor:
    """A checkpoint, run by PyTorch in float32 with its calibrated temperature."""

    engine = "PyTorch"
    precision = "fp32"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str = "the checkpoint",
        device: str = "cpu",
    ) -> None:
        """Predict with a checkpoint.

        Args:
            checkpoint: labels, preprocessing, temperature, and weights.
            name: see `Predictor`.
            device: where to compute, `cpu` or `cuda`.
        """
        self.name, self.device = name, device
        self.labels, self.preprocessing = checkpoint.labels, checkpoint.preprocessing
        self._temperature = checkpoint.temperature or 1.0
        self._network = checkpoint.network().to(device)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        """See `Predictor`."""
        every = np.arange(len(pixels))
        values = logits(self._network, self.preprocessing, pixels, every, self.device)
        return softmax(values, self._temperature)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    split: str | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score a model on a split of a data set.

    Args:
        predictor: the model.
        dataset: images of its size, channels and classes.
        split: `test`, `validation`, `holdout`, `train` (without the hold-out) or `all`; the test
            split, else the validation split, else the hold-out, if None; `all` of data without
            splits that lack a class.
        progress: called with the number of images done and the total.

    Raises:
        DatasetError: other classes, another size, or no images in the split.
        ModelFileError: the outputs of the model are not probabilities.
    """
    check_labels(dataset, predictor.labels)
    steps = predictor.preprocessing
    expected = (steps.size, steps.size, steps.channels)
    if dataset.images.shape[1:] != expected:
        raise DatasetError(
            f"{dataset.name}: images of shape {dataset.images.shape[1:]}, "
            f"the model expects {expected}"
        )
    split = split or dataset.default_split
    indices = dataset.indices(split)
    if not len(indices):
        raise DatasetError(
            f"{dataset.name}: no images in the split {split!r}; "
            f"the split 'all' has {len(dataset.targets):,}"
        )
    tally, done = Tally(predictor.labels), 0
    for rows in probabilities(predictor, dataset, indices, progress):
        try:
            tally.add(rows, dataset.targets[indices[done : done + len(rows)]])
        except ValueError as error:
            raise ModelFileError(f"{predictor.name}: invalid probabilities: {error}") from error
        done += len(rows)
    return tally.scores()


def probabilities(
    predictor: Predictor,
    dataset: Dataset,
    indices: NDArray[np.int64],
    progress: Progress | None = None,
) -> Iterator[NDArray[np.floating]]:
    """Probabilities for the chosen images, a batch at a time.

    Args:
        predictor: the model.
        dataset: images of its size and channels.
        indices: (N,), which of them.
        progress: called with the number of images done and the total.

    Yields:
        (B, K), in the order of the indices.
    """
    done = 0
    for pixels in batches(dataset.images, indices):
        yield predictor(pixels)
        done += len(pixels)
        if progress:
            progress(done, len(indices))


def batches(images: NDArray[np.uint8], indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """The chosen images, copied from a possibly memory-mapped array, a batch at a time."""
    count = max(1, _BATCH_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(indices), count):
        yield images[indices[start : start + count]]


# --- PyTorch --------------------------------------------------------------------------------------


class InputTransform:
    """Pixels -> the network's input: the torch side of `Preprocessing.normalize`."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device | str = "cpu") -> None:
        """Put the normalisation's numbers on `device`."""
        import torch

        scale, shift = preprocessing.scale_and_shift()
        self._scale = torch.from_numpy(scale).to(device).view(-1, 1, 1)
        self._shift = torch.from_numpy(shift).to(device).view(-1, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (N, S, S, C) on the device to normalised float32 (N, C, S, S), channels-last."""
        # permute() leaves NHWC memory, which is channels-last.
        return pixels.permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._shift)


def torch_device(provider: str, option: str = "provider") -> str:
    """The torch device of a provider; `auto` takes CUDA where torch sees a device.

    Args:
        provider: `auto`, `cpu` or `cuda`.
        option: what the user chose it by, for the message.

    Raises:
        ProviderError: `cuda` without a CUDA device.
    """
    import torch

    available = torch.cuda.is_available()
    if provider == "cuda" and not available:
        raise ProviderError(
            f"{option} cuda: torch sees no CUDA device here; use {option} cpu, or auto"
        )
    return "cuda" if available and provider != "cpu" else "cpu"


def to_device(values: NDArray[Any], device: torch.device | str) -> Tensor:
    """An array as a tensor on a device; on the CPU it may share the array's memory."""
    import torch

    tensor = torch.from_numpy(values)
    if torch.device(device).type != "cuda":
        return tensor
    # From pinned memory, the copy does not wait for the work that the GPU still has to do.
    return tensor.pin_memory().to(device, non_blocking=True)


def inputs(
    preprocessing: Preprocessing,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """The chosen images as the network takes them, a batch at a time, on a device.

    Args:
        preprocessing: the network's.
        images: (M, S, S, C).
        indices: (N,), which of them.
        device: where the tensors go.

    Yields:
        Normalised float32 (B, C, S, S), channels-last.
    """
    transform = InputTransform(preprocessing, device)
    for pixels in batches(images, indices):
        yield transform(to_device(pixels, device))


def logits(
    network: NiN,
    preprocessing: Preprocessing,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """The network's logits for the chosen images, in evaluation mode, which it is left in.

    Args:
        network: already on `device`.
        preprocessing: its preprocessing.
        images: (M, S, S, C).
        indices: (N,), which of them.
        device: where to compute.

    Returns:
        (N, K).
    """
    import torch

    from nin_edge.kernels import budgeted_threads

    network.eval()
    with torch.inference_mode(), _without_tf32(), budgeted_threads():
        parts = [
            network(batch).float().cpu().numpy()
            for batch in inputs(preprocessing, images, indices, device)
        ]
    return np.concatenate(parts) if parts else np.empty((0, network.config.classes), np.float32)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Keeps a GPU's convolutions from rounding their inputs to TF32's 10 bits, its default."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before

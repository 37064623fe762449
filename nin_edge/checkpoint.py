"""Weights with all that is needed to use them, in one safetensors file; never a pickle.

A checkpoint's tensors are the network's state dictionary and, under `ranges/`, the activation
ranges that int8 export needs. Its header carries the rest as JSON: format version, network, labels,
preprocessing, data set, metrics, library versions. A training state (`state.safetensors`) is
written in the same way, with its own kind in the header.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import PIL
import torch
from torch import Tensor

from nin_edge import __version__
from nin_edge.network import NetworkConfig, NiN
from nin_edge.quantised_points import ActivationRange
from nin_edge.tensorfile import read_tensors, tensors_digest, write_tensors
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.preprocessing import Preprocessing

_RANGES: Final = "ranges/"


@dataclass(frozen=True)
class DataSource:
    """The data set that a network was trained on."""

    name: str
    """What its owner calls it, for example `CIFAR-10 (JPEG q75)`."""
    licence: str = "not stated"
    """A note on the licence of its images."""
    fingerprint: str = ""
    """SHA-256 of all pixels and labels, in hexadecimal; empty if unknown."""


def library_versions() -> dict[str, str]:
    """Versions of nin-edge and of the libraries that training and export rest on."""
    return {
        "nin-edge": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


@dataclass(frozen=True)
class Checkpoint:
    """A trained network with its labels, preprocessing and history."""

    config: NetworkConfig
    """The network's shape."""
    weights: Mapping[str, Tensor]
    """State dictionary of `NiN(config)`."""
    labels: tuple[str, ...]
    """Name of each class, in the order of the outputs."""
    preprocessing: Preprocessing
    """How images become the network's input."""
    data: DataSource
    """What it was trained on."""
    ranges: Mapping[str, ActivationRange] = field(default_factory=dict)
    """Activation ranges by module name (`evaluate.activation_ranges`); empty if not recorded."""
    temperature: float | None = None
    """Divisor of the logits that calibrates the probabilities; None if it was not fitted."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measured figures by name, for example `test_top1` (0 to 1) and `test_images`."""
    versions: Mapping[str, str] = field(default_factory=library_versions)
    """Versions of the libraries that made it."""

    def network(self) -> NiN:
        """The network with these weights, in evaluation mode, channels-last, on the CPU."""
        network = NiN(self.config)
        network.load_state_dict(dict(self.weights))
        return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def fingerprint(self) -> str:
        """SHA-256 of the weights with their names, types and shapes, in hexadecimal."""
        return tensors_digest(self.weights, {})

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically.

        Raises:
            OSError: the file cannot be written; an older one of that name is untouched.
        """
        ranges = {
            _RANGES + name: torch.tensor([span.minimum, span.maximum, span.low, span.high])
            for name, span in self.ranges.items()
        }
        header = {
            "network": asdict(self.config),
            "labels": self.labels,
            "preprocessing": asdict(self.preprocessing),
            "data": asdict(self.data),
            "temperature": self.temperature,
            "metrics": dict(self.metrics),
            "versions": dict(self.versions),
        }
        write_tensors(path, "checkpoint", {**self.weights, **ranges}, header)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a checkpoint and check that its parts fit together.

        Raises:
            ModelFileError: missing, truncated, foreign, newer or inconsistent; the message names
                file and fault.
        """
        tensors, header = read_tensors(path, "checkpoint")
        try:
            checkpoint = cls(
                config=read_config(header["network"]),
                weights={
                    name: value for name, value in tensors.items() if not name.startswith(_RANGES)
                },
                labels=tuple(_expect(header, "labels", list)),
                preprocessing=read_preprocessing(header["preprocessing"]),
                data=DataSource(**header["data"]),
                ranges={
                    name.removeprefix(_RANGES): ActivationRange(*value.tolist())
                    for name, value in tensors.items()
                    if name.startswith(_RANGES)
                },
                temperature=header["temperature"],
                metrics=_expect(header, "metrics", dict),
                versions=_expect(header, "versions", dict),
            )
            checkpoint._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fault = f"the header lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ModelFileError(f"{path}: a damaged checkpoint: {fault}") from error
        return checkpoint

    def _check(self) -> None:
        """Raise ValueError where header and tensors contradict each other."""
        if not all(isinstance(label, str) for label in self.labels):
            raise ValueError(f"labels {self.labels}, expected text")
        if len(self.labels) != self.config.classes or len(set(self.labels)) != len(self.labels):
            raise ValueError(
                f"{len(set(self.labels))} different labels for {self.config.classes} classes"
            )
        network, preprocessing = (
            (self.config.size, self.config.channels),
            (self.preprocessing.size, self.preprocessing.channels),
        )
        if network != preprocessing:
            raise ValueError(
                f"size and channels are {network} in the network, "
                f"{preprocessing} in its preprocessing"
            )
        if self.temperature is not None and not (
            math.isfinite(self.temperature) and self.temperature > 0
        ):
            raise ValueError(f"temperature {self.temperature}, expected a positive number")
        with torch.device("meta"):  # shapes alone, no memory
            expected = {
                name: tuple(value.shape) for name, value in NiN(self.config).state_dict().items()
            }
        found = {name: tuple(value.shape) for name, value in self.weights.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise ValueError(
                    f"tensor {name!r} has shape {found.get(name, 'none (it is missing)')}, "
                    f"the network in the header wants {expected.get(name, 'no such tensor')}"
                )


def read_config(stored: Mapping[str, Any]) -> NetworkConfig:
    """A network's configuration from JSON, which knows lists alone.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    lists = {
        "blocks": tuple(tuple(block) for block in stored["blocks"]),
        "kernels": tuple(stored["kernels"]),
        "pools": tuple(stored.get("pools", NetworkConfig.pools)),  # older files do not name them
    }
    return NetworkConfig(**{**stored, **lists})


def read_preprocessing(stored: Mapping[str, Any]) -> Preprocessing:
    """A preprocessing from JSON, which knows lists alone.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return Preprocessing(**{**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"])})


def _expect(header: Mapping[str, Any], key: str, kind: type) -> Any:
    """A header's value, which has to be of the given type."""
    if not isinstance(header[key], kind):
        raise ValueError(f"{key} {header[key]!r}, expected a {kind.__name__}")
    return header[key]

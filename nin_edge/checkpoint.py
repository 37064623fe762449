"""A trained network with everything that is needed to use it, in one safetensors file.

The file's tensors are the network's state dictionary and, under `ranges/`, the activation ranges
that int8 export needs. Its header has the rest as JSON: network, labels, preprocessing, data set,
scores and library versions.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import PIL
import torch
from torch import Tensor

from nin_edge._version import __version__
from nin_edge.network import NetworkConfig, NiN
from nin_edge.quantised_points import ActivationRange
from nin_edge.tensorfile import check_tensors, read_tensors, tensors_digest, write_tensors
from nin_edge.trained_scores import TrainedScores
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.model_file.limits import MAX_LABEL
from nin_edge_runtime.model_file.strict_json import JsonObject, array, shortened, string
from nin_edge_runtime.preprocessing import Preprocessing

_RANGES: Final = "ranges/"  # prefix of the tensors that are activation ranges


@dataclass(frozen=True)
class DataSource:
    """The data set that a network was trained on."""

    name: str
    """Its name, for example `CIFAR-10 (JPEG q75)`."""
    licence: str = "not stated"
    """A note on the licence of its images."""
    fingerprint: str = ""
    """SHA-256 of its pixels, labels and splits, in hexadecimal; empty if unknown."""

    @classmethod
    def from_json(cls, stored: object) -> Self:
        """Read what a header or a run's configuration has of it.

        Raises:
            ValueError: a field is missing or is no text.
        """
        fields = JsonObject("data", stored)
        return cls(*map(fields.string, ("name", "licence", "fingerprint")))


def library_versions() -> dict[str, str]:
    """Versions of Python, nin-edge and the libraries that decide the result of a training."""
    return {
        "nin-edge": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


@dataclass(frozen=True)
class Checkpoint:
    """A trained network with its labels, preprocessing and scores."""

    config: NetworkConfig
    """The network's architecture."""
    weights: Mapping[str, Tensor]
    """State dictionary of `NiN(config)`."""
    labels: tuple[str, ...]
    """Name of each class, in the order of the outputs."""
    preprocessing: Preprocessing
    """How images become the network's input."""
    data: DataSource
    """The data set it was trained on."""
    ranges: Mapping[str, ActivationRange] = field(default_factory=dict)
    """Activation ranges (`quantised_points.activation_ranges`); empty if not recorded."""
    temperature: float | None = None
    """Divisor of the logits that calibrates the probabilities, above 0; None if not fitted."""
    latency_target_ms: float | None = None
    """Milliseconds of an int8 image that its width was chosen for; None if it was given."""
    trained_scores: TrainedScores = field(default_factory=TrainedScores)
    """What training measured: accuracy, calibration error, duration."""
    versions: Mapping[str, str] = field(default_factory=library_versions)
    """Versions of the libraries that made it."""

    def network(self) -> NiN:
        """A network with these weights, on the CPU, in evaluation mode and channels-last."""
        network = NiN(self.config)
        network.load_state_dict(dict(self.weights))
        return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def fingerprint(self) -> str:
        """SHA-256 of the weights with their names, types and shapes, in hexadecimal."""
        return tensors_digest(self.weights, {})

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically.

        Raises:
            OSError: the file cannot be written; an existing file is left as it was.
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
            "latency_target_ms": self.latency_target_ms,
            "metrics": self.trained_scores.to_json(),
            "versions": dict(self.versions),
        }
        write_tensors(path, "checkpoint", {**self.weights, **ranges}, header)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a checkpoint and check that its parts fit together.

        Raises:
            ModelFileError: the file is missing, damaged, of another program or a newer version; the
                message names the file and the fault.
        """
        tensors, header = read_tensors(path, "checkpoint")
        try:
            checkpoint = cls(
                config=read_config(header["network"]),
                weights={
                    name: value for name, value in tensors.items() if not name.startswith(_RANGES)
                },
                labels=read_labels(header["labels"]),
                preprocessing=read_preprocessing(header["preprocessing"]),
                data=DataSource.from_json(header["data"]),
                ranges={
                    name.removeprefix(_RANGES): _read_range(name, value)
                    for name, value in tensors.items()
                    if name.startswith(_RANGES)
                },
                temperature=JsonObject("header", header).optional_number("temperature"),
                latency_target_ms=JsonObject("header", header).optional_number("latency_target_ms"),
                trained_scores=TrainedScores.from_json(header["metrics"]),
                versions=_read_versions(JsonObject("versions", header["versions"])),
            )
            checkpoint._check_fields()
            checkpoint._check_weights()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            fault = f"the header lacks {error}" if isinstance(error, KeyError) else shortened(error)
            raise ModelFileError(f"{path}: a damaged checkpoint: {fault}") from error
        return checkpoint

    def _check_fields(self) -> None:
        """Raise ValueError where two fields of the header contradict each other."""
        if (longest := max(map(len, self.labels), default=0)) > MAX_LABEL:
            raise ValueError(
                f"a label of {longest:,} characters, expected at most {MAX_LABEL:,} characters"
            )
        different = len(set(self.labels))
        if not different == len(self.labels) == self.config.classes:
            raise ValueError(f"{different} different labels for {self.config.classes} classes")
        network = (self.config.size, self.config.channels)
        preprocessing = (self.preprocessing.size, self.preprocessing.channels)
        if network != preprocessing:
            raise ValueError(
                f"size and channels are {network} in the network, "
                f"{preprocessing} in its preprocessing"
            )
        temperature = self.temperature
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature {temperature}, expected a positive number")

    def _check_weights(self) -> None:
        """Raise ValueError unless the weights have the network's names, shapes and types."""
        with torch.device("meta"):  # shapes only, no memory
            network = NiN(self.config).state_dict()
        check_tensors(self.weights, network)


def read_config(stored: Mapping[str, Any]) -> NetworkConfig:
    """A network's configuration from JSON, where tuples are lists.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    tuples = {
        "blocks": tuple(tuple(block) for block in stored["blocks"]),
        "kernels": tuple(stored["kernels"]),
        "pools": tuple(stored["pools"]),
    }
    return NetworkConfig(**{**stored, **tuples})


def read_preprocessing(stored: Mapping[str, Any]) -> Preprocessing:
    """A preprocessing from JSON, where tuples are lists.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    return Preprocessing(**{**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"])})


def read_labels(stored: object) -> tuple[str, ...]:
    """Labels from JSON.

    Raises:
        ValueError: they are no list of texts.
    """
    try:
        return tuple(map(string, array(stored)))
    except ValueError as error:
        raise ValueError(f"labels: {error}") from None


def _read_range(name: str, stored: Tensor) -> ActivationRange:
    if stored.shape != (4,) or not stored.is_floating_point() or not stored.isfinite().all():
        raise ValueError(f"tensor {name!r} is {stored.shape}, expected four finite numbers")
    span = ActivationRange(*stored.tolist())
    if not span.minimum <= span.low <= span.high <= span.maximum:
        raise ValueError(f"tensor {name!r} is {span}, expected minimum, low, high, maximum to rise")
    return span


def _read_versions(stored: JsonObject) -> dict[str, str]:
    return {name: stored.string(name) for name in stored.all()}

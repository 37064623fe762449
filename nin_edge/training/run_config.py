"""The configuration of a run: what its config.json says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from nin_edge._version import __version__
from nin_edge.checkpoint import DataSource, read_config, read_labels, read_preprocessing
from nin_edge.data import Location
from nin_edge.network import NetworkConfig
from nin_edge.training.errors import TrainingError
from nin_edge.training.recipe import Recipe
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.folders import read_start
from nin_edge_runtime.model_file import strict_json
from nin_edge_runtime.model_file.strict_json import JsonObject
from nin_edge_runtime.preprocessing import Preprocessing

FORMAT_VERSION: Final = 1
"""Version of config.json's layout."""

_MAX_BYTES: Final = 16 << 20  # a thousand labels take 300,000


@dataclass(frozen=True)
class WeightsUsed:
    """Trained weights that a run started from, or a teacher's."""

    weights: str
    """Their path, or a name of `nin_edge.weights.WEIGHTS`."""
    sha256: str
    """Their fingerprint (`Checkpoint.fingerprint`), or that of an ONNX teacher; hexadecimal."""

    @classmethod
    def from_json(cls, stored: object) -> WeightsUsed:
        """Read what a configuration has of them.

        Raises:
            ValueError: a field is missing or is no text.
        """
        fields = JsonObject("weights", stored)
        return cls(fields.string("weights"), fields.string("sha256"))


@dataclass(frozen=True)
class Latency:
    """The latency that decided a run's width: int8, one thread of the training machine."""

    target_ms: float
    """What was asked for, in milliseconds."""
    measured_ms: float
    """What an untrained network of the chosen width took, in milliseconds."""

    @classmethod
    def from_json(cls, stored: object) -> Latency:
        """Read what a configuration has of it.

        Raises:
            ValueError: a field is missing or is no number.
        """
        fields = JsonObject("latency", stored)
        return cls(fields.number("target_ms"), fields.number("measured_ms"))


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run was started with."""

    network: NetworkConfig
    """The network."""
    recipe: Recipe
    """How it is trained."""
    preprocessing: Preprocessing
    """How images become its input."""
    labels: tuple[str, ...]
    """Name of each class."""
    data: DataSource
    """The data set: name, licence and fingerprint."""
    location: Location | None
    """Where the data set was, as an absolute path; None if not known."""
    init: WeightsUsed | None
    """The weights it started from; None if they were random."""
    teachers: tuple[WeightsUsed, ...]
    """The networks whose predictions are learnt."""
    latency: Latency | None = None
    """What the width was chosen for; None if it was given."""

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON can represent it."""
        location = self.location and self.location.to_json()
        return {"format_version": FORMAT_VERSION, **asdict(self), "location": location}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> RunConfig:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is not a run's configuration.
        """
        version = stored["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, expected {FORMAT_VERSION}")
        run = JsonObject("config", stored)
        return cls(
            network=read_config(stored["network"]),
            recipe=Recipe(**stored["recipe"]),
            preprocessing=read_preprocessing(stored["preprocessing"]),
            labels=read_labels(stored["labels"]),
            data=DataSource.from_json(stored["data"]),
            location=run.optional("location", Location.from_json),
            init=run.optional("init", WeightsUsed.from_json),
            teachers=tuple(map(WeightsUsed.from_json, run.array("teachers"))),
            latency=run.optional("latency", Latency.from_json),
        )

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read a config.json.

        Raises:
            ModelFileError: the file is missing or not a run's configuration.
        """
        try:
            return cls.from_json(strict_json.loads(_read(path)))
        except OSError as error:
            raise ModelFileError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            missing = " is missing" if isinstance(error, KeyError) else ""
            fault = f"{strict_json.shortened(error)}{missing}"
            raise ModelFileError(
                f"{path}: not a run's configuration that nin-edge {__version__} reads ({fault})"
            ) from error

    def digest(self) -> str:
        """SHA-256 of what decides the result, in hexadecimal: data may be moved."""
        stored = self.to_json()
        del stored["location"], stored["latency"]
        return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()

    def fixed(self) -> dict[str, Any]:
        """What a run has to be resumed with, by name; JSON can represent it.

        Weights count by their content: their files may have moved.
        """
        stored = self.to_json()
        return {
            "labels": stored["labels"],
            "data": stored["data"],
            "network": stored["network"],
            "recipe": stored["recipe"],
            "init": self.init and self.init.sha256,
            "teachers": [teacher.sha256 for teacher in self.teachers],
        }

    def check_resumes(self, other: RunConfig, path: Path) -> None:
        """Check that a training continues this run.

        Args:
            other: configuration of the training; without `init`, this run's counts.
            path: file that this configuration was read from, for the message.

        Raises:
            TrainingError: data, network, recipe or weights differ; the message says which.
        """
        if other.data.fingerprint != self.data.fingerprint:
            raise TrainingError(
                f"{path}: was trained on other images than these, on {self.data.name!r}"
            )
        wanted = json.loads(json.dumps(other.fixed()))
        for name, value in json.loads(json.dumps(self.fixed())).items():
            if wanted[name] != value and not (name == "init" and other.init is None):
                raise TrainingError(f"{path}: was trained with different {name}: expected {value}")


def _read(path: Path) -> str:
    """The text of a config.json.

    Raises:
        OSError, ValueError: it cannot be read, or is far too long.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES:,} bytes")
    return read_start(path, _MAX_BYTES).decode()

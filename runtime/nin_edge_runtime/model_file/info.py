"""The types of a model file's metadata, and the values that its fields may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nin_edge_runtime.model_file.certificate import Certificate
from nin_edge_runtime.preprocessing import Preprocessing

FORMAT_VERSION: Final = 1
"""Newest format of the metadata that this release reads; it reads all older ones too."""

PREFIX: Final = "nin_edge."
"""Prefix of every metadata key of nin-edge."""

EMBEDDED: Final = ("full", "normalize", "none")
"""Preprocessing that the graph itself does: all of it, normalisation alone, or none."""

PRECISIONS: Final = ("fp32", "fp16", "int8")
"""Precisions of a model, the most precise first."""


@dataclass(frozen=True)
class GoldenSamples:
    """Synthetic images and their probabilities on the exporting machine (`golden.py`)."""

    formula: int
    """The formula that draws the images."""
    images: tuple[tuple[int, int, int], ...]
    """(seed, height, width) of each image."""
    pytorch: tuple[tuple[float, ...], ...]
    """Each image's probabilities (K,) from the PyTorch network in fp32."""
    file: tuple[tuple[float, ...], ...]
    """Each image's probabilities (K,) from this file; empty until export measured them."""


@dataclass(frozen=True)
class ModelInfo:
    """A model's metadata."""

    format_version: int
    """Version of the metadata's format."""
    labels: tuple[str, ...]
    """Name of each class, in the order of the outputs."""
    preprocessing: Preprocessing
    """How images become the network's input."""
    embedded: str
    """Which of those steps the graph does itself: one of `EMBEDDED`."""
    precision: str
    """One of `PRECISIONS`."""
    temperature: float
    """Divisor of the logits that is folded into the graph; 1 if it was not fitted."""
    architecture: Mapping[str, Any]
    """The network's configuration: preset, width, blocks. For people; nothing is computed from it,
    and older files lack newer fields."""
    parameters: int
    """Trained parameters of the network."""
    multiply_adds: int
    """Multiply-adds of all convolutions for one image."""
    data: Mapping[str, str]
    """Name and licence note of the data set that the network was trained on."""
    versions: Mapping[str, str]
    """Libraries and processor that made the file."""
    certificate: Certificate
    """What was measured of the file."""
    golden: GoldenSamples
    """Samples that `nin-edge verify` replays."""
    engines: tuple[str, ...] | None
    """Names and versions of the engines beside ONNX Runtime that run graphs of this form correctly;
    None if no such graph was measured."""
    sha256: str
    """SHA-256 of the whole file, with these 64 digits as zeros; empty before the file is sealed."""

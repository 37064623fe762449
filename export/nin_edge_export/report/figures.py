"""The figures of an export report: each file's cost, its accuracy, and its disagreements."""

from __future__ import annotations

from dataclasses import dataclass

from nin_edge.metrics import Calibration, Scores
from nin_edge.trained_scores import TrainedScores
from nin_edge_export.int8.budget import Int8Plan
from nin_edge_runtime import ModelInfo


@dataclass(frozen=True, eq=False)
class FileFigures:
    """One file's cost and accuracy."""

    info: ModelInfo
    """Its metadata, with the certificate."""
    size: int
    """Bytes."""
    latency_ms: float
    """Median milliseconds of one run."""
    scores: Scores | None
    """Accuracy, confusion and calibration on the test images; None without a data set."""
    uncalibrated: Calibration | None
    """Calibration without the temperature; None without a data set or a temperature."""


@dataclass(frozen=True)
class Machine:
    """Where and how latency was measured."""

    cpu: str
    """Model of the processor."""
    processor: str
    """Its architecture and the instruction sets that decide ONNX Runtime's kernels."""
    onnxruntime: str
    """Version of ONNX Runtime."""
    threads: int
    """Threads of one run."""
    images: int
    """Images of one run: 1, or the batch that the files fix."""
    rounds: int
    """Rounds, in each of which every file was run in turn."""
    calls: int
    """Runs of a file in a round."""


@dataclass(frozen=True)
class Disagreement:
    """One test image for which a file predicts another class than PyTorch."""

    image: str
    """Its name in the data set."""
    label: str
    """Its class."""
    pytorch: str
    """PyTorch's prediction."""
    pytorch_probability: float
    """Probability that PyTorch gives it, 0 to 1."""
    file: str
    """The file's prediction."""
    file_probability: float
    """Probability that the file gives it, 0 to 1."""
    difference: float
    """Largest difference of a probability, 0 to 1."""
    png: bytes
    """The image as the network sees it."""


@dataclass(frozen=True)
class Disagreements:
    """The test images for which the least precise file predicts another class than PyTorch."""

    precision: str
    """That file's."""
    count: int
    """Number of such images."""
    worst: tuple[Disagreement, ...]
    """Those whose probabilities differ most, the largest difference first."""


@dataclass(frozen=True, eq=False)
class Report:
    """All figures of an export."""

    name: str
    """The files are called `NAME.PRECISION.onnx`."""
    files: tuple[FileFigures, ...]
    """In the order of export: fp32 first, if it is there."""
    machine: Machine
    """Where latency was measured."""
    latency_target_ms: float | None
    """int8's latency that the width was chosen for; None if the width was given."""
    data: str | None
    """Name of the data set that was measured on; None without one."""
    trained: TrainedScores
    """What training measured with PyTorch."""
    int8: Int8Plan | None
    """How int8's layers were decided; None without a data set or int8."""
    all_int8_ms: float | None
    """Latency of int8 with every convolution quantised; None if they all are."""
    disagreements: Disagreements | None
    """None without a data set."""

    @property
    def fp32(self) -> FileFigures | None:
        """The file that the others are compared with; None if it was not exported."""
        return next((file for file in self.files if file.info.precision == "fp32"), None)

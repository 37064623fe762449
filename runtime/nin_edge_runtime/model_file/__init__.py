"""A model file: its metadata, typed, and the checks before ONNX Runtime sees it."""

from nin_edge_runtime.model_file.certificate import NOT_MEASURED, Certificate
from nin_edge_runtime.model_file.info import (
    EMBEDDED,
    FORMAT_VERSION,
    PRECISIONS,
    GoldenSamples,
    ModelInfo,
)
from nin_edge_runtime.model_file.read import read_model

__all__ = [
    "EMBEDDED",
    "FORMAT_VERSION",
    "NOT_MEASURED",
    "PRECISIONS",
    "Certificate",
    "GoldenSamples",
    "ModelInfo",
    "read_model",
]

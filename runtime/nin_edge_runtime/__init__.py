"""The device runtime of nin-edge: one model file, any image, a prediction.

>>> from nin_edge_runtime import Classifier
>>> classify = Classifier()
>>> prediction = classify("photo.jpg")
>>> prediction.label, prediction.score
('cat', 0.93)
"""

from nin_edge_runtime.classifier import DEFAULT_MODEL, Classifier, GraphOutputs, Prediction
from nin_edge_runtime.errors import (
    GateError,
    ImageError,
    MissingDependencyError,
    ModelFileError,
    NinEdgeError,
    ProviderError,
)
from nin_edge_runtime.model_file import ModelInfo, read_model

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_MODEL",
    "Classifier",
    "GateError",
    "GraphOutputs",
    "ImageError",
    "MissingDependencyError",
    "ModelFileError",
    "ModelInfo",
    "NinEdgeError",
    "Prediction",
    "ProviderError",
    "read_model",
]

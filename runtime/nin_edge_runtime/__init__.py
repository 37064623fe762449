"""The device runtime of nin-edge."""

from nin_edge_runtime.errors import (
    ImageError,
    MissingDependencyError,
    ModelFileError,
    NinEdgeError,
    ProviderError,
)

__version__ = "0.1.0"

__all__ = ["ImageError", "MissingDependencyError", "ModelFileError", "NinEdgeError", "ProviderError"]

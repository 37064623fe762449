"""The errors that nin-edge raises on purpose: a base class, and one child for each reaction to it.

Each child also inherits the matching built-in exception, so that `except ValueError` works without
importing anything from here.
"""

from __future__ import annotations


class NinEdgeError(Exception):
    """Base of every error that nin-edge raises on purpose; its text can be shown to users."""


class ModelFileError(NinEdgeError, ValueError):
    """A model or checkpoint is missing, damaged, foreign, or of an unsupported format."""


class ImageError(NinEdgeError, ValueError):
    """An input is not an image that can be classified; the message names it."""


class ProviderError(NinEdgeError, RuntimeError):
    """The requested execution provider is unknown or not active."""


class MissingDependencyError(NinEdgeError, ImportError):
    """A package that this call needs is not installed; the message has the command for it."""


class GateError(NinEdgeError):
    """A parity or accuracy gate failed: a measured difference exceeds its tolerance."""

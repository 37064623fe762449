"""What can go wrong, as types: one base class, and a child for each thing a caller can react to.

Each child also inherits the built-in that fits, so `except ValueError` works for who does not know
us.
"""

from __future__ import annotations


class NinEdgeError(Exception):
    """Base of every error that nin-edge raises on purpose; its text is fit to show to a user."""


class ModelFileError(NinEdgeError, ValueError):
    """A model or checkpoint is missing, damaged, foreign, or of a format that cannot be read."""


class ImageError(NinEdgeError, ValueError):
    """An input is not an image that can be classified; the message names it."""


class ProviderError(NinEdgeError, RuntimeError):
    """The execution provider that was asked for is unknown or not active."""


class MissingDependencyError(NinEdgeError, ImportError):
    """A package that this call needs is not installed; the message has the command for it."""


class GateError(NinEdgeError):
    """A measured difference is beyond its tolerance: the model is not what it is said to be."""

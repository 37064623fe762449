"""Exceptions of training."""

from __future__ import annotations

from nin_edge_runtime.errors import NinEdgeError


class TrainingError(NinEdgeError, RuntimeError):
    """Training cannot start or continue; the message says why and what would help."""


class TrainingStoppedError(NinEdgeError):
    """Training was asked to stop and saved its state, so it can be resumed."""


class SettingError(NinEdgeError, ValueError):
    """A setting is unknown, out of its range, or does not fit the others; the message names it."""


class WorkersError(NinEdgeError, RuntimeError):
    """The processes of a training have different data or settings, or one of them has ended."""

"""Exceptions of data sets."""

from __future__ import annotations

from nin_edge_runtime.errors import NinEdgeError


class DatasetError(NinEdgeError, ValueError):
    """A folder or archive that cannot be trained on; the message names it and says why."""

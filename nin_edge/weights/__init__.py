"""The weights that ship with the toolkit."""

from nin_edge.weights.shipped import DEFAULT_WEIGHTS, PHOTO_WEIGHTS, WEIGHTS, find_weights

__all__ = ["DEFAULT_WEIGHTS", "PHOTO_WEIGHTS", "WEIGHTS", "find_weights"]

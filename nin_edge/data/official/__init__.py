"""The official archives of CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST."""

from nin_edge.data.official.registry import OFFICIAL

__all__ = ["OFFICIAL"]

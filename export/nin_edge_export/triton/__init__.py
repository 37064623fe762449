"""A model repository for Triton Inference Server."""

from nin_edge_export.triton.repository import TritonModel, write_repository

__all__ = ["TritonModel", "write_repository"]

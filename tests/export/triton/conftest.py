"""A small model, exported, and its model repository for Triton."""

from __future__ import annotations

from pathlib import Path

import pytest

from nin_edge_export import ExportedModel
from nin_edge_runtime import read_model


@pytest.fixture(scope="session")
def exported(tiny_model: Path) -> ExportedModel:
    data, info = read_model(tiny_model)
    return ExportedModel(data, info, probabilities=None, reference=None)

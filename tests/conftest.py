"""Which execution provider runs the network, on how many threads; is it really active?"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

MODELS = Path(__file__).parent / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """An RGB model of three classes, 16 x 16, preprocessing in the graph; random weights."""
    return MODELS / "format-1.fp32.onnx"


@pytest.fixture(scope="session")
def tiny_weights() -> Path:
    """The checkpoint that `tiny_model` was exported from."""
    return MODELS / "tiny.safetensors"


@pytest.fixture(scope="session")
def photo() -> Path:
    """The demo photo."""
    return Path(__file__).parent.parent / "examples" / "cat.jpg"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, or the test is skipped."""
    found = os.environ.get("NIN_EDGE_TEST_DATA")
    folder = Path(found) if found else Path(__file__).parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; NIN_EDGE_TEST_DATA names the folder of it")
    return folder

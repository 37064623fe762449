"""What the tests of hostile model files share: graphs, and their sealing as files."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nin_edge_runtime import ModelFileError, read_model
from nin_edge_runtime.model_file.read import file_sha256, find_sha256

if TYPE_CHECKING:
    from onnx import ModelProto

    from nin_edge.checkpoint import Checkpoint

# Hostile files are made with the export stage, which the runtime is also tested without.
_WITH_ONNX = [
    *("test_contract.py", "test_graph_check.py", "test_protobuf.py", "test_work.py"),
]
_SECONDS = 1.0  # longest that a refusal may take; the check's own time is a few milliseconds
collect_ignore = [] if find_spec("onnx") else _WITH_ONNX


@pytest.fixture(scope="session")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    from nin_edge.checkpoint import Checkpoint

    return Checkpoint.load(tiny_weights)


@pytest.fixture(scope="session")
def sealed(checkpoint: Checkpoint) -> Callable[..., bytes]:
    """Seal a graph as the export stage does."""
    from nin_edge_export.seal import describe, seal
    from nin_edge_runtime.golden import FORMULA
    from nin_edge_runtime.model_file import GoldenSamples

    rows = ((0.5, 0.25, 0.25),)
    golden = GoldenSamples(FORMULA, ((0, 16, 16),), pytorch=rows, file=rows)

    def finish(graph: ModelProto, precision: str = "fp32", embedded: str = "full") -> bytes:
        info = describe(checkpoint, precision=precision, embedded=embedded, golden=golden)
        return seal(graph, info)

    return finish


@pytest.fixture
def graph(tiny_bytes: bytes) -> ModelProto:
    """The tiny model without its metadata, to be changed."""
    from onnx import ModelProto

    model = ModelProto.FromString(tiny_bytes)
    del model.metadata_props[:]
    return model


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Read a model's bytes, which must be refused in one line and at once.

    Call it as `refused(data, said)`, with a pattern of the message; it returns the message.
    """

    def refuse(data: bytes, said: str) -> str:
        started = time.perf_counter()
        with pytest.raises(ModelFileError, match=said) as error:
            read_model(data)
        assert time.perf_counter() - started < _SECONDS
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 1500
        return str(error.value)

    return refuse


@pytest.fixture(scope="session")
def resigned() -> Callable[[bytes], bytes]:
    """Give a changed file the SHA-256 that fits it."""

    def sign(data: bytes) -> bytes:
        digits = find_sha256(data)
        assert digits is not None
        return data[: digits.start] + file_sha256(data, digits).encode() + data[digits.stop :]

    return sign

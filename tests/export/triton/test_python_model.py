"""The code that Triton's Python backend runs, with stand-ins for the four names Triton gives it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nin_edge_export import ExportedModel
from nin_edge_export.triton import write_repository
from nin_edge_runtime import Classifier


@dataclass
class Tensor:
    name: str
    values: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.values


class TritonError(Exception):
    INVALID_ARG = 3

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class InferenceResponse:
    def __init__(
        self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None
    ) -> None:
        self.outputs = {tensor.name: tensor.values for tensor in output_tensors or []}
        self.error = error


@pytest.fixture
def model(
    exported: ExportedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[list[bytes]]], list[InferenceResponse]]:
    """Sends requests of some images each to the model in a repository, as one batch."""
    triton = ModuleType("triton_python_backend_utils")
    for thing in (Tensor, TritonError, InferenceResponse):
        setattr(triton, thing.__name__, thing)
    triton.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    _, written = write_repository([exported], "tiny", tmp_path)
    code = runpy.run_path(str(written.folder / "model.py"))
    running = code["TritonPythonModel"]()
    running.initialize(
        {"model_repository": str(written.folder.parent), "model_version": written.folder.name}
    )

    def send(requests: list[list[bytes]]) -> Any:
        return running.execute(
            [
                {"image": Tensor("image", np.array([[one] for one in images], dtype=np.object_))}
                for images in requests
            ]
        )

    return send


def test_answers_are_those_of_the_runtime(
    model: Callable[..., Any], photo: Path, tiny_model: Path
) -> None:
    data = photo.read_bytes()
    expected = Classifier(tiny_model, threads=1)(data)
    first, second = model([[data], [data] * 20])
    for response, count in ((first, 1), (second, 20)):
        assert response.error is None
        outputs = response.outputs
        assert outputs["label"].tolist() == [[expected.label.encode()]] * count
        assert (outputs["score"].shape, outputs["score"].dtype) == ((count, 1), np.float32)
        assert outputs["probabilities"].shape == (count, 3)
        np.testing.assert_allclose(outputs["score"][:, 0], expected.score, atol=1e-6)
        np.testing.assert_allclose(outputs["probabilities"][-1], expected.probabilities, atol=1e-6)


@pytest.mark.parametrize("bad", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\0" * 10**6])
def test_a_bad_image_is_its_requests_error_alone(
    model: Callable[..., Any], photo: Path, bad: bytes
) -> None:
    data = photo.read_bytes()
    good, failed, other = model([[data], [data, bad], [data, data]])
    assert failed.error.args[0].startswith("image 1: ")
    assert "\n" not in failed.error.args[0]
    assert failed.error.code == TritonError.INVALID_ARG
    assert failed.outputs == {}
    assert (good.error, other.error) == (None, None)
    assert other.outputs["label"].shape == (2, 1)

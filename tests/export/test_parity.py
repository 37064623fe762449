"""Probabilities of models and of PyTorch, and their comparison."""

from __future__ import annotations

import numpy as np
import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge_export import ExportedModel
from nin_edge_export.parity import (
    TOLERANCES,
    compare,
    pytorch_probabilities,
    session_probabilities,
)
from nin_edge_runtime import GateError
from nin_edge_runtime.model_file.certificate import Agreement
from nin_edge_runtime.session import ModelSession

REFERENCE = np.array([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.45, 0.55]])


def test_comparison_has_the_largest_difference_and_the_agreement() -> None:
    probabilities = REFERENCE.copy()
    probabilities[3] = (0.567891, 0.432109)
    assert compare(probabilities, REFERENCE, "int8", "photos") == Agreement(
        data="photos",
        count=4,
        max_abs_difference=0.12,  # two significant digits
        top1_agreement=0.75,
        tolerance=1.0,
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("factor", "refused"), [(0.5, False), (1.5, True), (np.nan, True)])
def test_difference_beyond_the_tolerance_is_refused(
    precision: str, factor: float, refused: bool
) -> None:
    probabilities = REFERENCE + np.array([[factor * TOLERANCES[precision], 0]])
    if refused:
        with pytest.raises(GateError, match=f"{precision} model differs .* on the golden samples"):
            compare(probabilities, REFERENCE, precision, None)
    else:
        compare(probabilities, REFERENCE, precision, None)


def test_sessions_and_pytorch_answer_for_the_chosen_images(
    checkpoint: Checkpoint, dataset: Dataset, unmeasured: dict[str, ExportedModel]
) -> None:
    chosen = np.array([3, 0, 7])
    model = unmeasured["fp32"]
    session = ModelSession(model.data, model.info, "m", provider="cpu", threads=1)
    found = session_probabilities(session, dataset.images, chosen)
    expected = pytorch_probabilities(checkpoint, checkpoint.network(), dataset.images, chosen)
    assert np.allclose(found, expected, rtol=0, atol=TOLERANCES["fp32"])

"""Choosing golden samples, and checking a model with them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge_export import ExportedModel, golden
from nin_edge_export.golden import MARGIN, check_golden, choose_golden
from nin_edge_runtime import Classifier, GateError
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.model_file import GoldenSamples


def test_first_firm_seed_of_each_size_is_chosen(checkpoint: Checkpoint) -> None:
    chosen = choose_golden(checkpoint, checkpoint.network())
    assert len(chosen.images) == len(chosen.pytorch) == 8
    assert len({(height, width) for _, height, width in chosen.images}) == 8
    assert chosen.file == ()
    for (seed, height, width), row in zip(chosen.images, chosen.pytorch, strict=True):
        second, best = sorted(row)[-2:]
        assert best - second >= MARGIN
        for earlier in range(seed // 64 * 64, seed):
            probabilities = golden.pytorch_probabilities(
                checkpoint,
                checkpoint.network(),
                checkpoint.preprocessing.resize(golden_image(earlier, height, width))[np.newaxis],
                np.arange(1),
            )
            second, best = np.sort(probabilities[0])[-2:]
            assert best - second < MARGIN


def test_firmest_seed_is_chosen_where_none_is_firm(checkpoint: Checkpoint) -> None:
    """A very soft network: the first of all 64 seeds with the largest margin."""
    soft = replace(checkpoint, temperature=1000.0)
    network = soft.network()
    chosen = choose_golden(soft, network)
    seed, height, width = chosen.images[1]
    pixels = np.stack(
        [soft.preprocessing.resize(golden_image(64 + n, height, width)) for n in range(64)]
    )
    probabilities = golden.pytorch_probabilities(soft, network, pixels, np.arange(64))
    ordered = np.sort(probabilities, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    assert margins.max() < MARGIN
    assert seed == 64 + int(margins.argmax())


@pytest.mark.parametrize(("changed", "refused"), [(0, False), (1, False), (4, False), (5, True)])
def test_a_few_firm_predictions_may_change_in_int8(changed: int, refused: bool) -> None:
    """The samples resemble no training image."""
    images = tuple((seed, 16, 16) for seed in range(8))
    samples = GoldenSamples(1, images, ((0.7, 0.2, 0.1),) * 8, ())
    rows = iter([(0.3, 0.4, 0.3)] * changed + [(0.6, 0.3, 0.1)] * (8 - changed))
    session: Any = SimpleNamespace(
        info=SimpleNamespace(precision="int8"), graph=lambda images: (np.array([next(rows)]), None)
    )
    if refused:
        with pytest.raises(GateError, match=f"other classes than PyTorch for {changed} of 8 golde"):
            check_golden(session, samples)
    else:
        measured, agreement = check_golden(session, samples)
        assert agreement.top1_agreement == 1 - changed / 8
        assert agreement.firm_answers == 8
        assert len(measured.file) == 8


def test_int8_that_is_far_off_is_refused_though_its_labels_stay() -> None:
    images = tuple((seed, 16, 16) for seed in range(8))
    samples = GoldenSamples(1, images, ((0.98, 0.01, 0.01),) * 8, ())
    session: Any = SimpleNamespace(
        info=SimpleNamespace(precision="int8"),
        graph=lambda images: (np.array([(0.4, 0.3, 0.3)]), None),
    )
    with pytest.raises(GateError, match=r"differs from PyTorch by 0\.58 on the golden samples"):
        check_golden(session, samples)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_stored_probabilities_are_the_files_own(
    precision: str, unmeasured: dict[str, ExportedModel]
) -> None:
    model = unmeasured[precision]
    classify = Classifier(model.data, provider="cpu", threads=1)
    for image, expected in zip(model.info.golden.images, model.info.golden.file, strict=True):
        found = classify.graph(golden_image(*image)[np.newaxis]).probabilities[0]
        assert np.allclose(found, expected, rtol=0, atol=1e-6)

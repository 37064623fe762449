from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from nin_edge import predict
from nin_edge.data import Dataset
from nin_edge.metrics import top1
from nin_edge.network import NetworkConfig, NiN
from nin_edge.training.linear_head import fit_linear_head, has_linear_head
from nin_edge_runtime.preprocessing import Preprocessing

STEPS = Preprocessing(16, 3, (30 / 255,) * 3, (0.2,) * 3)
LAST = {"stages.6.6.weight", "stages.6.6.bias"}


def untrained(make: Callable[..., NetworkConfig], **changes: object) -> NiN:
    torch.manual_seed(0)
    return NiN(make(width=0.2, **changes)).eval()


def accuracy(network: NiN, dataset: Dataset) -> float:
    logits = predict.logits(network, STEPS, dataset.images, dataset.test)
    return top1(logits, dataset.targets[dataset.test])


def test_the_last_layer_alone_learns_from_random_features(
    shapes: Dataset, tiny_network: Callable[..., NetworkConfig]
) -> None:
    network = untrained(tiny_network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fit_linear_head(network, shapes, STEPS, flip=True, balanced=False, label_smoothing=0.0)
    after = network.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == LAST
    assert accuracy(network, shapes) >= 0.8  # chance is a third
    again = untrained(tiny_network)
    fit_linear_head(again, shapes, STEPS, flip=True, balanced=False, label_smoothing=0.0)
    assert all(torch.equal(value, after[name]) for name, value in again.state_dict().items())


def test_what_is_done_is_reported(
    shapes: Dataset, tiny_network: Callable[..., NetworkConfig]
) -> None:
    tasks: dict[str, list[tuple[int, int]]] = {}
    fit_linear_head(
        untrained(tiny_network),
        shapes,
        STEPS,
        flip=True,
        balanced=False,
        label_smoothing=0.0,
        progress=lambda task, *done: tasks.setdefault(task, []).append(done),
    )
    assert list(tasks) == ["computing features", "fitting the last layer"]
    for calls in tasks.values():
        done, (total, *others) = zip(*calls, strict=True)
        assert list(done) == sorted(set(done))
        assert done[-1] == total
        assert set(others) <= {total}
    assert tasks["computing features"][-1][1] == len(shapes.train)


def test_logits_are_those_of_the_regression_at_the_optimum(
    shapes: Dataset, tiny_network: Callable[..., NetworkConfig]
) -> None:
    # There, the mean predicted probability of each class is its frequency: the bias has no penalty.
    network = untrained(tiny_network)
    fit_linear_head(network, shapes, STEPS, flip=False, balanced=False, label_smoothing=0.0)
    logits = predict.logits(network, STEPS, shapes.images, shapes.train)
    predicted = torch.from_numpy(logits).softmax(1).mean(0).numpy()
    frequency = np.bincount(shapes.targets[shapes.train]) / len(shapes.train)
    np.testing.assert_allclose(predicted, frequency, atol=0.01)


def test_balanced_classes_count_the_same(
    shapes: Dataset, tiny_network: Callable[..., NetworkConfig]
) -> None:
    few = np.concatenate(
        [
            shapes.train[shapes.targets[shapes.train] == 0],
            shapes.train[shapes.targets[shapes.train] > 0][::8],
        ]
    )
    unequal = replace(shapes, train=np.sort(few))
    shares = []
    for balanced in (False, True):
        network = untrained(tiny_network)
        fit_linear_head(network, unequal, STEPS, flip=False, balanced=balanced, label_smoothing=0.0)
        logits = predict.logits(network, STEPS, shapes.images, shapes.test)
        shares.append(float(torch.from_numpy(logits).softmax(1)[:, 0].mean()))
    assert shares[1] < shares[0]


@pytest.mark.parametrize(
    ("changes", "linear"),
    [({}, True), ({"preset": "nin"}, False), ({"head": "fc"}, False), ({"block": "linear"}, True)],
    ids=str,
)
def test_only_averaged_linear_maps_have_a_linear_head(
    tiny_network: Callable[..., NetworkConfig], changes: dict[str, str], linear: bool
) -> None:
    assert has_linear_head(NiN(tiny_network(**changes))) is linear

"""The width for a latency: the search, the graphs that it times, and real measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.network import NetworkConfig, NiN
from nin_edge_export import latency
from nin_edge_export.graph import build_graph
from nin_edge_export.latency import WIDTHS, choose_width, widest_within, with_weights
from nin_edge_runtime import NinEdgeError
from nin_edge_runtime.preprocessing import Preprocessing

FOLDED = 1e-5  # relative; batch normalisation adds its epsilon of 1e-5 to a variance of 1
FAST, SLOW = 0.001, 1000.0  # milliseconds that no network meets, and that these all do


def milliseconds(width: float) -> float:
    """A latency as it is on a real machine: a constant, and about the square of the width."""
    return 0.1 + 1.2 * width**2.1


@pytest.mark.parametrize("target", [0.099, 0.11, 0.3, 1.0, 2.9, 20.0, 90.0, 500.0])
def test_the_search_finds_the_widest_of_all_in_few_stages(target: float) -> None:
    stages: list[Sequence[int]] = []

    def measure(chosen: Sequence[int]) -> list[float]:
        stages.append(chosen)
        return [milliseconds(WIDTHS[index]) for index in chosen]

    index, found = widest_within(WIDTHS, target, measure)
    within = [index for index, width in enumerate(WIDTHS) if milliseconds(width) <= target]
    assert index == max(within, default=-1)
    assert found == milliseconds(WIDTHS[max(index, 0)])
    assert len(stages) <= 5
    assert all(len(chosen) <= 8 for chosen in stages)


def test_a_figure_that_was_wrong_is_measured_again() -> None:
    """The machine was busy during the first stage: everything took twice as long."""
    busy = iter([2.0])

    def measure(chosen: Sequence[int]) -> list[float]:
        factor = next(busy, 1.0)
        return [factor * milliseconds(WIDTHS[index]) for index in chosen]

    index, found = widest_within(WIDTHS, 1.0, measure)
    assert found == milliseconds(WIDTHS[index]) <= 1.0 < milliseconds(WIDTHS[index + 1])


def untrained(preset: str, width: float) -> Checkpoint:
    config = NetworkConfig.from_preset(preset, classes=3, size=16, width=width)
    return Checkpoint(
        config=config,
        weights=NiN(config).state_dict(),
        labels=("a", "b", "c"),
        preprocessing=Preprocessing(16, 3, (0.4,) * 3, (0.25,) * 3),
        data=DataSource("none"),
    )


def constants(model: ModelProto) -> Iterator[tuple[str, np.ndarray]]:
    return ((tensor.name, numpy_helper.to_array(tensor)) for tensor in model.graph.initializer)


@pytest.mark.parametrize("preset", ["nin-bn", "nin"])
def test_a_graph_with_other_weights_is_that_of_the_exporter(preset: str) -> None:
    wide = untrained(preset, 0.3)
    exported = build_graph(wide, "full")
    made = with_weights(build_graph(untrained(preset, 0.05), "full"), wide)
    assert list(made.graph.node) == list(exported.graph.node)
    for (name, own), (expected, value) in zip(constants(made), constants(exported), strict=True):
        assert name == expected
        np.testing.assert_allclose(own, value, rtol=FOLDED, atol=0)


def test_candidates_differ_and_can_be_built() -> None:
    for preset in ("nin-bn", "nin-imagenet"):
        network = NetworkConfig.from_preset(preset)
        found = latency._different(network)
        shapes = [candidate.layer_shapes() for candidate in found]
        assert len(set(shapes)) == len(shapes) > 100
        assert replace(network, width=1.0).layer_shapes() in shapes
        assert sorted(one.width for one in found) == [one.width for one in found]
    large = NetworkConfig.from_preset("nin-imagenet", size=512, stride=1, width=0.05)
    assert latency._different(large)[-1].width < WIDTHS[-1]  # wider ones are refused


@pytest.fixture
def few_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three widths, timed for a moment; the same weights share torch's export."""
    monkeypatch.setattr(latency, "WIDTHS", (0.05, 0.3, 3.0))
    monkeypatch.setattr(latency, "SECONDS", 0.1)
    torch.manual_seed(0)


NETWORK = NetworkConfig.from_preset("nin-bn", classes=3, size=32)


@pytest.mark.usefixtures("few_widths")
def test_the_width_is_measured() -> None:
    """The last of the three needs 600 times the multiply-adds of the first."""
    done: list[tuple[str, int, int]] = []
    width, measured = choose_width(NETWORK, 3.0, lambda *step: done.append(step))
    assert width == 0.3
    assert 0 < measured <= 3.0
    task = "timing untrained networks"
    assert done[:2] == [(task, 0, 3), (task, 1, 3)]
    assert done[-1][1] == done[-1][2]  # the line on the terminal ends


@pytest.mark.usefixtures("few_widths")
def test_a_latency_that_no_network_meets_is_one_error() -> None:
    words = r"latency is 0\.001 ms: the narrowest network, of width 0\.05, takes 0\.\d+ ms on one"
    with pytest.raises(NinEdgeError, match=words):
        choose_width(NETWORK, FAST)


@pytest.mark.usefixtures("few_widths")
def test_a_latency_that_the_widest_network_meets_is_noted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(latency, "WIDTHS", (0.05, 0.3))
    width, measured = choose_width(NETWORK, SLOW)
    assert width == 0.3
    assert f"latency is 1000 ms: the widest network, of width 0.3, takes {measured:.3g} ms" in (
        caplog.messages
    )

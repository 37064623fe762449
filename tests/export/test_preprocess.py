"""The preprocessing nodes there are for each way of embedding (their values: tests/parity)."""

from __future__ import annotations

import pytest

from nin_edge_export.preprocess import NORMALIZED, build_input, build_preprocessing
from nin_edge_runtime.preprocessing import Preprocessing


def _operators(channels: int, embedded: str) -> list[str]:
    steps = Preprocessing(32, channels, (0.5,) * channels, (0.5,) * channels)
    return [node.op_type for node in build_preprocessing(steps, embedded)[0]]


def test_full_crops_and_resizes_bytes_before_it_normalises() -> None:
    operators = _operators(3, "full")
    assert operators.index("Slice") < operators.index("Resize") < operators.index("Cast")
    assert operators[-2:] == ["Mul", "Add"]


def test_grey_networks_reduce_to_luma_before_the_resize() -> None:
    operators = _operators(1, "full")
    assert operators.index("ReduceSum") < operators.index("Resize")


def test_normalize_leaves_the_size_alone() -> None:
    assert _operators(3, "normalize") == ["Transpose", "Cast", "Mul", "Add"]


def test_none_has_no_nodes() -> None:
    assert _operators(3, "none") == []


@pytest.mark.parametrize("embedded", ["full", "normalize", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_constant_is_used_once(channels: int, embedded: str) -> None:
    steps = Preprocessing(32, channels, (0.5,) * channels, (0.5,) * channels)
    nodes, constants = build_preprocessing(steps, embedded)
    used = {name for node in nodes for name in node.input}
    names = [tensor.name for tensor in constants]
    assert len(set(names)) == len(names)
    assert set(names) <= used
    _, last = build_input(steps, embedded)
    assert last == ("image" if embedded == "none" else NORMALIZED)

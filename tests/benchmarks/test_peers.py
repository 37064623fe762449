"""The comparison of engines: its rows, measured with the engines that the tests have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import _peers, peers
from benchmarks._tables import TABLES
from nin_edge_runtime.golden import golden_image

IMAGES = 33  # one more than the largest batch
LabelledCase = tuple[_peers.Case, NDArray[np.int64]]


@pytest.fixture(scope="module")
def labelled(
    tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelledCase]:
    """The tiny network without preprocessing, and images of its size."""
    folder = tmp_path_factory.mktemp("peers")
    data, exported = folder / "data", folder / "exported"
    for index in range(3 * IMAGES):
        label = ("circle", "square", "étoile")[index % 3]
        path = data / ("test" if index < IMAGES else "train") / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(golden_image(index, 16, 16)).save(path)
    exported.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield peers.make_case(tiny_weights, data, IMAGES, exported)


def find(name: str, precision: str) -> _peers.Peer:
    return next(peer for peer in _peers.PEERS if (peer.name, peer.precision) == (name, precision))


@pytest.mark.slow  # processes that import torch
def test_rows_have_figures_or_a_reason(labelled: LabelledCase) -> None:
    ours, ours_int8 = find(_peers.OURS, "fp32"), find(_peers.OURS, "int8")
    pytorch = find(_peers.REFERENCE, "fp32")
    absent = replace(ours, name="absent", packages=("no-such-package",))
    broken = replace(ours, name="broken", load=partial(_peers.onnxruntime, "fp64"))
    rows = peers.measure("tiny", *labelled, [ours, ours_int8, pytorch, absent, broken], rounds=2)
    names = [_peers.OURS, _peers.OURS, _peers.REFERENCE, "absent", "broken"]
    assert [row["engine"] for row in rows] == names
    assert len({tuple(row) for row in rows}) == 1  # all have the same keys
    for row in rows[:3]:
        assert (row["reason"], row["test_images"]) == (None, IMAGES)
        assert all(row[f"{threads}_{batch}_ms"] > 0 for threads, batch in peers.COLUMNS)
    for row in rows[:2]:  # ratios are to ours, of the same precision
        assert all(row[f"{threads}_{batch}_ratio"] == 1 for threads, batch in peers.COLUMNS)
    # Rounding is all that sets fp32 engines apart.
    assert rows[0]["top1_agreement"] == rows[2]["top1_agreement"] == 1
    assert rows[0]["test_error"] == rows[2]["test_error"]
    for row in rows[3:]:
        assert row["test_error"] is row["one_1_ms"] is row["all_32_ratio"] is None
    assert rows[3]["reason"] == "no-such-package is not installed"
    assert "fp64.onnx" in rows[4]["reason"]
    assert peers.notes(rows)[0] == "absent, fp32: not measured, no-such-package is not installed."
    shown = {name for name in rows[0] if any(name in part for _, part in TABLES["peers"].columns)}
    assert {"engine", "precision", "one_1_ms", "all_32_ratio", "test_error"} <= shown


def test_a_process_that_dies_is_a_reason(labelled: LabelledCase) -> None:
    case, _ = labelled
    with pytest.raises(peers.PeerError, match="its process ended with code 3"):
        peers.Process(case, 1, partial(os._exit, 3))

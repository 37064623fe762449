"""Graphs for other engines: what the runtime takes of them, and what the metadata say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import load_from_string

from nin_edge.checkpoint import Checkpoint
from nin_edge_export import ExportOptions, export_models
from nin_edge_export.engines import BATCHES, ENGINES, OPSETS, engines_of
from nin_edge_export.seal import seal
from nin_edge_runtime import Classifier, ModelFileError, read_model
from nin_edge_runtime.model_file import EMBEDDED, PRECISIONS
from nin_edge_runtime.preprocessing import Preprocessing
from nin_edge_runtime.verify import replay

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "engines.json"
COLOUR = Preprocessing(16, 3, (102 / 255,) * 3, (0.25,) * 3)


def test_the_table_is_what_the_benchmark_measured() -> None:
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"]
    measured: dict[tuple[object, ...], set[str]] = {}
    for row in rows:
        graph = (row["embedded"], row["precision"], row["opset"], row["batch"])
        names = measured.setdefault(graph, set())
        if row["runs"] == "yes":
            names.add(row["engine"])
    ours = {row["engine"] for row in rows} - {engine.name for engine in ENGINES}
    assert len(ours) == 1
    assert "ONNX Runtime" in next(iter(ours))
    graphs = [
        (embedded, precision, opset, batch)
        for embedded in EMBEDDED
        for precision in PRECISIONS
        for opset in OPSETS
        for batch in BATCHES
        if embedded != "full" or opset >= 18
    ]
    assert set(graphs) == set(measured)
    for graph in graphs:
        assert {*(engines_of(COLOUR, *graph) or ()), *ours} == measured[graph], graph


@pytest.mark.parametrize(
    ("steps", "graph"),
    [
        (COLOUR, ("none", "fp32", 20, None)),
        (COLOUR, ("normalize", "int8", 18, 4)),
        (replace(COLOUR, channels=1, mean=(0.4,), std=(0.25,)), ("normalize", "fp32", 18, 1)),
        (replace(COLOUR, mean=(0.4, 0.5, 0.6)), ("normalize", "fp32", 18, 1)),
    ],
    ids=["opset", "batch", "luma", "a mean for each channel"],
)
def test_what_was_not_measured_is_not_claimed(
    steps: Preprocessing, graph: tuple[str, str, int, int | None]
) -> None:
    assert engines_of(steps, *graph) is None


@pytest.mark.parametrize("channels", [3, 1], ids=["colour", "grey"])
@pytest.mark.parametrize(
    ("embedded", "opset", "batch"), [("normalize", 13, None), ("none", 13, 1), ("none", 17, 4)]
)
def test_old_opsets_give_the_same_probabilities(
    embedded: str,
    opset: int,
    batch: int | None,
    channels: int,
    checkpoint: Checkpoint,
    grey_checkpoint: Checkpoint,
) -> None:
    checkpoint = checkpoint if channels == 3 else grey_checkpoint
    options = ExportOptions(embedded=embedded, opset=opset, batch=batch)
    newest = export_models(checkpoint, replace(options, opset=18))
    for model, other in zip(export_models(checkpoint, options), newest, strict=True):
        described = load_from_string(model.data)
        operators = {node.op_type for node in described.graph.node}
        assert described.opset_import[0].version == opset
        assert {"GlobalAveragePool", "Flatten"} <= operators
        assert "ReduceMean" not in operators
        assert np.allclose(model.info.golden.file, other.info.golden.file, rtol=0, atol=1e-6)
        assert replay(Classifier(model.data, provider="cpu", threads=1)).difference < 1e-6


def test_the_metadata_name_the_engines(checkpoint: Checkpoint) -> None:
    checkpoint = replace(
        checkpoint, preprocessing=replace(checkpoint.preprocessing, mean=COLOUR.mean)
    )
    for embedded, batch, expected in (
        ("none", None, engines_of(COLOUR, "none", "fp32", 18, None)),
        ("full", None, ()),
        ("none", 4, None),
    ):
        options = ExportOptions(precisions=("fp32",), embedded=embedded, batch=batch)
        (model,) = export_models(checkpoint, options)
        keys = [entry.key for entry in load_from_string(model.data).metadata_props]
        assert ("nin_edge.engines" in keys) == (expected is not None)
        assert model.info.engines == read_model(model.data)[1].engines == expected


@pytest.mark.parametrize(("embedded", "opset"), [("full", 17), ("none", 12), ("normalize", 12)])
def test_opsets_older_than_the_operators_are_refused(
    embedded: str, opset: int, checkpoint: Checkpoint
) -> None:
    with pytest.raises(ValueError, match=rf"opset {opset}: expected 1[38] to 22"):
        ExportOptions(embedded=embedded, opset=opset)
    (model,) = export_models(checkpoint, ExportOptions(precisions=("fp32",), embedded=embedded))
    graph = load_from_string(model.data)
    del graph.metadata_props[:]
    graph.opset_import[0].version = opset
    with pytest.raises(ModelFileError, match=r"expected only ONNX's own, 1[38] or newer"):
        read_model(seal(graph, model.info))

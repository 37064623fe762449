"""The lists of what a file may hold: they take what export writes, and fit onnx and the docs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.network import NetworkConfig, NiN
from nin_edge.quantised_points import INPUT, ActivationRange, quantised_points
from nin_edge_export.fp16 import to_fp16
from nin_edge_export.graph import build_graph
from nin_edge_export.int8.activation_ranges import recorded_ranges
from nin_edge_export.int8.quantize import quantize
from nin_edge_runtime import DEFAULT_MODEL, read_model
from nin_edge_runtime.model_file import graph_check, schema
from nin_edge_runtime.model_file.limits import (
    MAX_BATCH,
    MAX_BATCH_WORK,
    MAX_MULTIPLY_ADDS,
    MAX_TENSOR,
    MAX_TENSORS,
)
from nin_edge_runtime.model_file.operators import OPERATORS, TYPES
from nin_edge_runtime.model_file.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    MAX_FIELDS,
    VARINT,
    Schema,
    message,
)
from nin_edge_runtime.model_file.read import ENTRY
from nin_edge_runtime.preprocessing import Preprocessing

SHAPES: list[dict[str, Any]] = [
    {"preset": "nin", "size": 512, "head": "fc"},
    {"preset": "nin-imagenet", "size": 512, "classes": 20, "head": "fc", "channels": 1},
    {"preset": "nin-photo-large", "size": 16},
    {"preset": "nin-bn", "size": 16, "classes": 2, "channels": 1, "block": "linear"},
]


def untrained(config: NetworkConfig) -> Checkpoint:
    """A checkpoint with made-up activation ranges."""
    network = NiN(config)
    span = ActivationRange(minimum=-3.0, maximum=3.0, low=-2.0, high=2.0)
    return Checkpoint(
        config=config,
        weights=network.state_dict(),
        labels=tuple(map(str, range(config.classes))),
        preprocessing=Preprocessing(
            config.size, config.channels, (0.5,) * config.channels, (0.2,) * config.channels
        ),
        data=DataSource("none"),
        ranges=dict.fromkeys((INPUT, *quantised_points(network)), span),
    )


class TestOwnFiles:
    @pytest.mark.parametrize(
        ("embedded", "opset", "batch"),
        [("full", 18, None), ("normalize", 22, 3), ("none", 20, 4096), ("none", 13, 1)],
    )
    def test_what_export_writes_is_taken(
        self,
        checkpoint: Checkpoint,
        sealed: Callable[..., bytes],
        embedded: str,
        opset: int,
        batch: int | None,
    ) -> None:
        model = build_graph(checkpoint, embedded, opset=opset, batch=batch)
        ranges = recorded_ranges(checkpoint, model, "minmax")
        for precision, exported in {
            "fp32": model,
            "fp16": to_fp16(model, checkpoint.ranges),
            "int8": quantize(checkpoint, model, ranges),
        }.items():
            info = read_model(sealed(exported, precision, embedded))[1]
            assert (info.precision, info.embedded) == (precision, embedded)
        # A convolution in float marks its weights as being in the file.
        mixed = quantize(checkpoint, model, ranges, ["stages.0.0"])
        read_model(sealed(mixed, "int8", embedded))

    @pytest.mark.parametrize("changes", SHAPES, ids=str)
    def test_every_network_that_can_be_trained_is_taken(self, changes: dict[str, Any]) -> None:
        """In every precision and way of embedding, and with the largest batch."""
        own = untrained(NetworkConfig.from_preset(**({"width": 0.01} | changes)))
        work = own.config.work()
        batch = min(
            MAX_BATCH,
            MAX_BATCH_WORK * MAX_MULTIPLY_ADDS // work.multiply_adds,
            MAX_BATCH_WORK * MAX_TENSOR // work.largest,
            MAX_BATCH_WORK * MAX_TENSORS // work.total,
        )
        for embedded, count in (("full", None), ("normalize", batch), ("none", batch)):
            model = build_graph(own, embedded, batch=count)
            int8 = quantize(own, model, recorded_ranges(own, model, "minmax"))
            for graph in (model, to_fp16(model, own.ranges), int8):
                graph_check.check_model(
                    graph.SerializeToString(),
                    classes=own.config.classes,
                    size=own.config.size,
                    channels=own.config.channels,
                    embedded=embedded,
                )

    def test_the_check_is_a_small_part_of_a_start(self) -> None:
        data = DEFAULT_MODEL.read_bytes()
        info = read_model(data)[1]
        steps, times = info.preprocessing, []
        for _ in range(20):
            started = time.perf_counter()
            graph_check.check_model(
                data,
                classes=len(info.labels),
                size=steps.size,
                channels=steps.channels,
                embedded=info.embedded,
            )
            times.append(time.perf_counter() - started)
        assert min(times) < 0.01  # under a millisecond where it was written

    def test_weights_are_skipped_not_read(
        self, graph: ModelProto, sealed: Callable[..., bytes]
    ) -> None:
        weights = np.zeros((1024, 1024, 1, 16), np.float32)
        graph.graph.initializer.append(numpy_helper.from_array(weights, "large"))
        data = sealed(graph)
        assert len(data) > 2**26
        started = time.perf_counter()
        graph_check.check_model(data, classes=3, size=16, channels=3, embedded="full")
        assert time.perf_counter() - started < 0.1


SCHEMAS: dict[str, Schema] = {
    "ModelProto": schema.MODEL,
    "OperatorSetIdProto": schema.OPSET,
    "GraphProto": schema.GRAPH,
    "NodeProto": schema.NODE,
    "AttributeProto": schema.ATTRIBUTE,
    "TensorProto": schema.TENSOR,
    "ValueInfoProto": schema.VALUE,
    "TypeProto": schema.TYPE,
    "TypeProto.Tensor": schema.TENSOR_TYPE,
    "TensorShapeProto": schema.SHAPE,
    "TensorShapeProto.Dimension": schema.DIMENSION,
    "StringStringEntryProto": ENTRY,
}


class TestFieldNumbers:
    @pytest.mark.parametrize(("name", "schema"), SCHEMAS.items(), ids=SCHEMAS)
    def test_they_are_those_of_the_onnx_package(self, name: str, schema: Schema) -> None:
        kind: object = onnx
        for part in name.split("."):
            kind = getattr(kind, part)
        numbered = kind.DESCRIPTOR.fields_by_number  # type: ignore[attr-defined]
        for key, (ours, recurs) in schema.items():
            theirs = numbered[key >> 3]
            wires = {theirs.TYPE_FLOAT: FIXED32, theirs.TYPE_DOUBLE: FIXED64}
            length = (theirs.TYPE_STRING, theirs.TYPE_BYTES, theirs.TYPE_MESSAGE)
            wire = BYTES if theirs.type in length or theirs.is_packed else VARINT
            assert key & 7 == wires.get(theirs.type, wire) or theirs.is_packed, ours
            if recurs is not None:
                assert (ours, recurs) == (theirs.name, theirs.is_repeated)
            else:
                assert any(word.rstrip("s") in ours for word in theirs.name.split("_")), ours

    def test_element_types_are_those_of_the_onnx_package(self) -> None:
        for kind, (width, holder) in TYPES.items():
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            assert dtype.itemsize == width
            assert helper.tensor_dtype_to_field(kind) == holder

    def test_the_operators_are_those_that_the_contract_names(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "artifact.md").read_text("utf-8")
        for operator in OPERATORS:
            assert f"`{operator.decode()}`" in page
            assert onnx.defs.has(operator.decode())
        assert f"the {len(OPERATORS)} that this page names" in page

    def test_all_that_is_in_a_file_of_ours_is_in_the_lists(self, tiny_bytes: bytes) -> None:
        model = ModelProto.FromString(tiny_bytes)
        found = message(tiny_bytes, (0, len(tiny_bytes)), schema.MODEL, "it", MAX_FIELDS)
        inner = message(tiny_bytes, found["graph"], schema.GRAPH, "it", MAX_FIELDS)
        assert len(inner["node"]) == len(model.graph.node)
        assert len(inner["initializer"]) == len(model.graph.initializer)

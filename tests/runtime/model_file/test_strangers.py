"""Model files made to do harm: whole, with a valid SHA-256, and still refused before they are run.

They are made with the onnx package and sealed by the export stage itself, as a stranger would.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from nin_edge.checkpoint import Checkpoint
from nin_edge_export.certify import Golden
from nin_edge_export.fp16 import to_fp16
from nin_edge_export.graph import build_graph
from nin_edge_export.int8.quantize import quantize, recorded_ranges
from nin_edge_export.seal import seal
from nin_edge_runtime import DEFAULT_MODEL, Classifier, ModelFileError, read_model
from nin_edge_runtime.golden import FORMULA, golden_image
from nin_edge_runtime.model_file import graph_check as graphcheck
from nin_edge_runtime.model_file.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    MAX_FIELDS,
    VARINT,
    Schema,
    fields,
    message,
    tag,
    varint,
)
from nin_edge_runtime.model_file.read import ENTRY, file_sha256, find_sha256

SECONDS = 2.0
"""Longest that a refusal may take here; the check's own time is measured in milliseconds."""

Change = Callable[[ModelProto], object]


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return Checkpoint.load(tiny_weights)


@pytest.fixture(scope="module")
def sealed(checkpoint: Checkpoint) -> Callable[..., bytes]:
    """A graph as a file that the export stage sealed."""

    def finish(graph: ModelProto, precision: str = "fp32", embedded: str = "full") -> bytes:
        rows = ((0.5, 0.25, 0.25),)
        golden = Golden(FORMULA, ((0, 16, 16),), rows)
        return seal(
            graph,
            checkpoint,
            precision=precision,
            embedded=embedded,
            golden=golden,
            answers=rows,
            certificate={},
        )

    return finish


@pytest.fixture
def graph(tiny_bytes: bytes) -> ModelProto:
    """The tiny model without its metadata, to be changed."""
    model = ModelProto.FromString(tiny_bytes)
    del model.metadata_props[:]
    return model


def initializer(model: ModelProto, name: str = "stages.0.3.weight") -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node(model: ModelProto, operator: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.op_type == operator)


def external(location: str, dims: tuple[int, ...] = (4,)) -> TensorProto:
    tensor = TensorProto(
        name="secret", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    return tensor


def moved_out(model: ModelProto, location: str) -> bytes:
    """Name another file as the place of a convolution's weights, and give the weights."""
    tensor = initializer(model)
    weights = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return weights


def subgraph() -> onnx.GraphProto:
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [4])
    identity = helper.make_node("Identity", ["secret"], ["inner"])
    return helper.make_graph([identity], "inner", [], [out], initializer=[external("secret.bin")])


def add_node(model: ModelProto, operator: str, **attributes: object) -> None:
    model.graph.node.append(
        helper.make_node(operator, ["normalized"], ["unused"], name="added", **attributes)
    )


def add_attribute(model: ModelProto, **value: object) -> None:
    """An attribute of a kind that helpers do not write."""
    add_node(model, "Relu")
    model.graph.node[-1].attribute.add(name="extra", **value)


def add_function(model: ModelProto) -> None:
    opset = helper.make_opsetid("", 18)
    constant = helper.make_node("Constant", [], ["y"], value=external("secret.bin"))
    model.functions.append(helper.make_function("own", "Own", [], ["y"], [constant], [opset]))


def add_training(model: ModelProto) -> None:
    model.training_info.add().initialization.CopyFrom(subgraph())


def add_sparse(model: ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(external("secret.bin"))


EXTERNAL: dict[str, tuple[Change, str]] = {
    "a weight": (lambda model: moved_out(model, "secret.bin"), "external data"),
    "absolute": (lambda model: moved_out(model, "/etc/hostname"), "external data"),
    "a folder up": (lambda model: moved_out(model, "../secret.bin"), "external data"),
    "memory": (lambda model: moved_out(model, "*/_ORT_MEM_ADDR_/*"), "external data"),
    "its location alone": (
        lambda model: initializer(model).external_data.add(key="location", value="secret.bin"),
        "external data",
    ),
    "its mark alone": (
        lambda model: setattr(initializer(model), "data_location", TensorProto.EXTERNAL),
        "external data",
    ),
    "a sparse initializer": (add_sparse, "sparse"),
    "a node's tensor": (
        lambda model: add_node(model, "Relu", value=external("secret.bin")),
        "tensor",
    ),
    "a node's tensors": (
        lambda model: add_attribute(model, tensors=[external("secret.bin")]),
        "tensors",
    ),
    "a node's sparse tensor": (
        lambda model: add_attribute(model, sparse_tensor=onnx.SparseTensorProto(dims=[4])),
        "sparse tensor",
    ),
    "a node's sparse tensors": (
        lambda model: add_attribute(model, sparse_tensors=[onnx.SparseTensorProto(dims=[4])]),
        "sparse tensors",
    ),
    "a subgraph": (lambda model: add_node(model, "Relu", body=subgraph()), "subgraph"),
    "subgraphs": (lambda model: add_node(model, "Relu", bodies=[subgraph()]), "subgraphs"),
    "a function": (add_function, "functions"),
    "training": (add_training, "training"),
}


class TestExternalData:
    def test_onnx_runtime_alone_follows_it_even_from_bytes(
        self, graph: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reason for all of this."""
        monkeypatch.chdir(tmp_path)
        weights = moved_out(graph, "secret.bin")
        image = golden_image(1, 16, 16)[np.newaxis]
        answers = []
        for secret in (weights, bytes(len(weights))):
            Path("secret.bin").write_bytes(secret)
            session = onnxruntime.InferenceSession(
                graph.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            answers.append(session.run(["class_maps"], {"image": image})[0])
        assert not np.array_equal(*answers)

    @pytest.mark.parametrize(("change", "said"), EXTERNAL.values(), ids=EXTERNAL)
    def test_it_is_refused_wherever_it_stands(
        self,
        graph: ModelProto,
        sealed: Callable[..., bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        change: Change,
        said: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "secret.bin").write_bytes(np.full(64, 0.5, np.float32).tobytes())
        change(graph)
        path = tmp_path / "stranger.onnx"
        path.write_bytes(sealed(graph))
        for source in (path, path.read_bytes()):
            with pytest.raises(ModelFileError, match=said) as error:
                Classifier(source)
            assert "\n" not in str(error.value)
        with pytest.raises(ModelFileError, match=r"stranger\.onnx"):
            read_model(path)


def retyped(model: ModelProto, kind: int, **data: object) -> None:
    tensor = initializer(model)
    tensor.ClearField("raw_data")
    tensor.data_type = kind
    for name, value in data.items():
        getattr(tensor, name).extend(value)


def set_integers(model: ModelProto, name: str, values: list[int]) -> None:
    initializer(model, name).CopyFrom(numpy_helper.from_array(np.array(values, np.int64), name))


def broadcast(model: ModelProto, operator: str = "Mul") -> None:
    """Two weights whose product has 2^32 elements, from a file of half a megabyte."""
    for name, shape in (("row", (1, 1 << 16)), ("column", (1 << 16, 1))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    model.graph.node.append(helper.make_node(operator, ["row", "column"], ["huge"], name="bomb"))


def dequantized_broadcast(model: ModelProto) -> None:
    scale = numpy_helper.from_array(np.float32(1), "unit")
    model.graph.initializer.append(scale)
    for name in ("row", "column"):
        shape = (1, 1 << 16) if name == "row" else (1 << 16, 1)
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.int8), name))
        model.graph.node.append(
            helper.make_node("DequantizeLinear", [name, "unit"], [f"{name}.float"])
        )
    model.graph.node.append(helper.make_node("Mul", ["row.float", "column.float"], ["huge"]))


def loop(model: ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    add_node(model, "Loop", body=body)


def output(model: ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(item for item in model.graph.output if item.name == name)


def dimension(value: onnx.ValueInfoProto, index: int) -> onnx.TensorShapeProto.Dimension:
    return value.type.tensor_type.shape.dim[index]


def fix_batch(model: ModelProto, count: int) -> None:
    for value in (*model.graph.input, *model.graph.output):
        dimension(value, 0).dim_value = count


SENSELESS: dict[str, tuple[Change, str]] = {
    # Weights that are not what their shape says.
    "2^40 elements": (lambda model: initializer(model).dims.__setitem__(0, 1 << 40), "elements"),
    "a product beyond 64 bits": (
        lambda model: initializer(model).dims.__setitem__(slice(None), [1 << 62] * 4),
        "elements",
    ),
    "a product of zero": (lambda model: initializer(model).dims.__setitem__(0, 0), "shape"),
    "a negative side": (lambda model: initializer(model).dims.__setitem__(0, -8), "shape"),
    "rank 5": (lambda model: initializer(model).dims.append(1), "shape"),
    "no data": (lambda model: initializer(model).ClearField("raw_data"), "holds nan"),
    "data in two fields": (lambda model: initializer(model).float_data.append(1), "holds nan"),
    "too few floats": (lambda model: retyped(model, TensorProto.FLOAT, float_data=[1, 2]), "2"),
    "doubles": (
        lambda model: retyped(model, TensorProto.DOUBLE, double_data=[1.0] * 64),
        "field 10",
    ),
    "strings": (lambda model: retyped(model, TensorProto.STRING, string_data=[b"a"]), "field 6"),
    "complex numbers": (
        lambda model: retyped(model, TensorProto.COMPLEX64, float_data=[1] * 128),
        "type 14",
    ),
    "a segment": (lambda model: setattr(initializer(model).segment, "begin", 0), "field 3"),
    # Numbers that would make tensors of any size.
    "a huge resize": (lambda model: set_integers(model, "size", [1 << 20] * 2), "1048576"),
    "a resize by scales": (
        lambda model: node(model, "Resize").input.__setitem__(2, "scale"),
        "height and width",
    ),
    "a computed resize": (
        lambda model: node(model, "Resize").input.__setitem__(3, "surplus"),
        "height and width",
    ),
    "many axes": (lambda model: set_integers(model, "map_axes", [2] * 17), "at most 16"),
    "a huge padding": (
        lambda model: node(model, "Conv").attribute.append(
            helper.make_attribute("pads", [1 << 20] * 4)
        ),
        "1048576",
    ),
    "a huge number": (
        lambda model: node(model, "Conv").attribute.append(
            helper.make_attribute("group", -(1 << 40))
        ),
        "expected at most",
    ),
    "weights against weights": (broadcast, "in convolutions alone"),
    "weights added": (lambda model: broadcast(model, "Add"), "in convolutions alone"),
    "int8 weights against int8 weights": (dequantized_broadcast, "in convolutions alone"),
    # Operators that the network has no use for.
    "ConstantOfShape": (lambda model: add_node(model, "ConstantOfShape"), "ConstantOfShape"),
    "Expand": (lambda model: add_node(model, "Expand"), "Expand"),
    "Loop": (loop, "Loop"),
    "no operator": (lambda model: add_node(model, ""), "operator ''"),
    "another domain's": (
        lambda model: add_node(model, "Conv", domain="com.microsoft"),
        r"com\.microsoft\.Conv",
    ),
    "an overload": (
        lambda model: setattr(node(model, "Relu"), "overload", "other"),
        "field 8",
    ),
    "another operator set": (
        lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
        r"com\.microsoft",
    ),
    "only another operator set": (
        lambda model: setattr(model.opset_import[0], "domain", "ai.onnx.ml"),
        r"ai\.onnx\.ml",
    ),
    "opset 17": (lambda model: setattr(model.opset_import[0], "version", 17), "17"),
    "no operator set": (lambda model: model.ClearField("opset_import"), "operator sets"),
    "very many nodes": (
        lambda model: [add_node(model, "Relu") for _ in range(MAX_FIELDS)],
        "more than 2,048 fields",
    ),
    "very many inputs": (lambda model: node(model, "Relu").input.extend(["image"] * 40), "32"),
    # Inputs and outputs that are not those that the metadata promises.
    "a second input": (
        lambda model: model.graph.input.add().CopyFrom(
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
        ),
        "'more'",
    ),
    "an output missing": (lambda model: model.graph.output.__delitem__(1), "class_maps"),
    "another output": (
        lambda model: setattr(model.graph.output[1], "name", "maps"),
        "'maps'",
    ),
    "an output twice": (
        lambda model: model.graph.output.add().CopyFrom(model.graph.output[0]),
        "twice",
    ),
    "an input of floats": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 1),
        "of type 1",
    ),
    "a sequence": (
        lambda model: model.graph.input[0].type.sequence_type.elem_type.CopyFrom(
            model.graph.output[0].type
        ),
        "field 4",
    ),
    "four channels": (
        lambda model: setattr(dimension(model.graph.input[0], 3), "dim_value", 4),
        r"\?, \?, \?, 4",
    ),
    "a fixed height": (
        lambda model: setattr(dimension(model.graph.input[0], 1), "dim_value", 16),
        r"\?, 16, \?, 3",
    ),
    "more probabilities than labels": (
        lambda model: setattr(dimension(model.graph.output[0], 1), "dim_value", 4),
        r"\[\?, 4\].*expected.*\[\?, 3\]",
    ),
    "larger maps": (
        lambda model: setattr(dimension(output(model, "class_maps"), 2), "dim_value", 1 << 20),
        "1048576",
    ),
    "a negative batch": (lambda model: fix_batch(model, -1), "at least 1"),
    "no shape": (
        lambda model: model.graph.output[0].type.tensor_type.ClearField("shape"),
        "no shape",
    ),
    "no type": (lambda model: model.graph.output[0].ClearField("type"), "type of"),
    "batches that differ": (
        lambda model: setattr(dimension(model.graph.input[0], 0), "dim_value", 2),
        "expected",
    ),
    "a huge batch": (lambda model: fix_batch(model, 1 << 20), "1,048,576 images a run"),
}


class TestSenselessGraphs:
    @pytest.mark.parametrize(("change", "said"), SENSELESS.values(), ids=SENSELESS)
    def test_a_senseless_graph_is_refused_in_one_line_and_at_once(
        self, graph: ModelProto, sealed: Callable[..., bytes], change: Change, said: str
    ) -> None:
        change(graph)
        data = sealed(graph)
        started = time.perf_counter()
        with pytest.raises(ModelFileError, match=rf"refused before it is run.*{said}") as error:
            read_model(data)
        assert time.perf_counter() - started < SECONDS
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1500

    def test_names_from_the_file_cannot_break_the_line(
        self, graph: ModelProto, sealed: Callable[..., bytes]
    ) -> None:
        add_node(graph, "Evil\n\x1b[31m" + "x" * 10_000)
        graph.graph.node[-1].name = "first\nsecond"
        with pytest.raises(ModelFileError) as error:
            read_model(sealed(graph))
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 500

    def test_what_is_left_over_is_onnx_runtimes_to_refuse(
        self, graph: ModelProto, sealed: Callable[..., bytes]
    ) -> None:
        node(graph, "Relu").input[0] = "nowhere"
        with pytest.raises(ModelFileError, match="ONNX Runtime"):
            Classifier(sealed(graph), provider="cpu")

    def test_the_unchanged_graph_is_taken(
        self, graph: ModelProto, sealed: Callable[..., bytes], tiny_model: Path
    ) -> None:
        image = golden_image(1, 16, 16)
        expected = Classifier(tiny_model, provider="cpu", threads=1)(image)
        resealed = Classifier(sealed(graph), provider="cpu", threads=1)(image)
        assert resealed.probabilities.tolist() == expected.probabilities.tolist()


class TestOwnFiles:
    @pytest.mark.parametrize(
        ("embedded", "opset", "batch"),
        [("full", 18, None), ("normalize", 22, 3), ("none", 20, 4096)],
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

    def test_the_check_is_a_small_part_of_a_start(self) -> None:
        data = DEFAULT_MODEL.read_bytes()
        info = read_model(data)[1]
        steps, times = info.preprocessing, []
        for _ in range(20):
            started = time.perf_counter()
            graphcheck.check_model(
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
        graphcheck.check_model(data, classes=3, size=16, channels=3, embedded="full")
        assert time.perf_counter() - started < 0.1


def encoded(value: int, padding: int = 0) -> bytes:
    """A varint, with bytes that it does not need."""
    out = bytearray()
    while value > 0x7F or padding:
        padding -= value <= 0x7F
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, payload: bytes) -> bytes:
    return encoded(tag(number)) + encoded(len(payload)) + payload


def resigned(data: bytes) -> bytes:
    digits = find_sha256(data)
    assert digits is not None
    return data[: digits.start] + file_sha256(data, digits).encode() + data[digits.stop :]


EVIL = field(5, field(8, b"evil") + b"\x10\x01" + field(13, field(1, b"location")))
"""Of a GraphProto: an initializer with external data."""


class TestEncodings:
    """Bytes that protobuf reads and no serialiser writes: ways to show us another graph than it."""

    @pytest.mark.parametrize(
        ("extra", "said"),
        [
            (field(7, EVIL), "graph twice"),
            (encoded(tag(7), padding=1) + encoded(len(EVIL)) + EVIL, "broken number"),
            (encoded(tag(7)) + encoded(len(EVIL), padding=2) + EVIL, "broken number"),
            (encoded(tag(7) + (1 << 32)) + encoded(len(EVIL)) + EVIL, "field number"),
            (encoded(7 << 3 | 3) + EVIL + encoded(7 << 3 | 4), "wire type 3"),
            (encoded(tag(7, VARINT)) + b"\x01", "field 7 of wire type 0"),
            (encoded(tag(99)) + b"\x00", "field 99"),
            (field(25, b""), "functions"),
            (field(20, b""), "training"),
        ],
        ids=[
            *("merged", "long tag", "long length", "tag beyond 32 bits", "group", "wrong type"),
            *("unknown", "function", "training"),
        ],
    )
    def test_another_graph_cannot_be_smuggled_in(
        self, tiny_bytes: bytes, extra: bytes, said: str
    ) -> None:
        try:
            data = resigned(tiny_bytes + extra)
        except ValueError:  # so broken that there are no digits to find
            data = tiny_bytes + extra
        with pytest.raises(ModelFileError, match=said):
            read_model(data)

    def test_protobuf_does_merge_and_cut_off(self, tiny_bytes: bytes) -> None:
        """The reason: what is refused above, the onnx package sees as one graph."""
        for extra in (
            field(7, EVIL),
            encoded(tag(7)) + encoded(len(EVIL), padding=2) + EVIL,
        ):
            model = ModelProto.FromString(tiny_bytes + extra)
            assert model.graph.initializer[-1].name == "evil"
            assert len(model.graph.node) > 10

    @pytest.mark.parametrize(
        "again",
        [
            field(9, bytes(256)),  # raw_data: the last one counts
            b"\x10\x07",  # data_type
            field(8, b"other"),
        ],
    )
    def test_a_tensors_field_cannot_be_given_twice(
        self, graph: ModelProto, sealed: Callable[..., bytes], again: bytes
    ) -> None:
        tensor = initializer(graph)
        whole = tensor.SerializeToString()
        tensor.MergeFromString(again)  # keeps the last
        data = sealed(graph)
        twice = field(5, whole + again)
        old = field(5, tensor.SerializeToString())
        assert old in data
        graph_at = next((a, b) for key, a, b in fields(data, 0, len(data)) if key == tag(7))
        inner = data[slice(*graph_at)].replace(old, twice)
        head = graph_at[0] - len(encoded(tag(7)) + encoded(graph_at[1] - graph_at[0]))
        data = data[:head] + field(7, inner) + data[graph_at[1] :]
        with pytest.raises(ModelFileError, match="twice"):
            read_model(resigned(data))

    def test_bytes_that_onnx_runtime_takes_for_its_own_format_are_refused(
        self, graph: ModelProto, sealed: Callable[..., bytes]
    ) -> None:
        graph.producer_name = "ORTM"
        data = sealed(graph)
        assert data[4:8] == b"ORTM"
        ModelProto.FromString(data)
        with pytest.raises(ModelFileError, match="own format"):
            read_model(data)

    @pytest.mark.parametrize(
        "filler", [b"\x08\x08", b"\x72\x00", b"\x3a\x00"], ids=["numbers", "metadata", "graphs"]
    )
    def test_millions_of_fields_are_refused_at_once(self, filler: bytes) -> None:
        started = time.perf_counter()
        with pytest.raises(ModelFileError, match=r"fields|twice"):
            read_model(b"\x0a\x00" + filler * 5_000_000)
        assert time.perf_counter() - started < SECONDS

    @pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
    def test_varints_are_read_as_protobuf_writes_them(self, value: int) -> None:
        data = encoded(value)
        assert varint(data + b"\x05", 0, len(data) + 1) == (value, len(data))
        with pytest.raises(ValueError, match="broken number"):
            varint(data[:-1], 0, len(data) - 1)
        with pytest.raises(ValueError, match="broken number"):
            varint(encoded(value, padding=1), 0, 20)

    def test_numbers_beyond_64_bits_are_refused(self) -> None:
        with pytest.raises(ValueError, match="broken number"):
            varint(b"\xff" * 9 + b"\x02", 0, 10)


SCHEMAS: dict[str, Schema] = {
    "ModelProto": graphcheck.MODEL,
    "OperatorSetIdProto": graphcheck.OPSET,
    "GraphProto": graphcheck.GRAPH,
    "NodeProto": graphcheck.NODE,
    "AttributeProto": graphcheck.ATTRIBUTE,
    "TensorProto": graphcheck.TENSOR,
    "ValueInfoProto": graphcheck.VALUE,
    "TypeProto": graphcheck.TYPE,
    "TypeProto.Tensor": graphcheck.TENSOR_TYPE,
    "TensorShapeProto": graphcheck.SHAPE,
    "TensorShapeProto.Dimension": graphcheck.DIMENSION,
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
        for kind, (width, holder) in graphcheck._TYPES.items():
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            assert dtype.itemsize == width
            assert helper.tensor_dtype_to_field(kind) == holder

    def test_the_operators_are_those_that_the_contract_names(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "artifact.md").read_text("utf-8")
        for operator in graphcheck.OPERATORS:
            assert f"`{operator.decode()}`" in page
            assert onnx.defs.has(operator.decode())
        assert f"the {len(graphcheck.OPERATORS)} that this page names" in page

    def test_all_that_is_in_a_file_of_ours_is_in_the_lists(self, tiny_bytes: bytes) -> None:
        model = ModelProto.FromString(tiny_bytes)
        found = message(tiny_bytes, (0, len(tiny_bytes)), graphcheck.MODEL, "it", MAX_FIELDS)
        inner = message(tiny_bytes, found["graph"], graphcheck.GRAPH, "it", MAX_FIELDS)
        assert len(inner["node"]) == len(model.graph.node)
        assert len(inner["initializer"]) == len(model.graph.initializer)


class TestMetadata:
    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("labels", json.dumps([str(n) for n in range(70_000)]), "70000 labels"),
            ("labels", json.dumps(["x" * 1001, "y", "z"]), "1001 characters"),
            ("labels", '["\\ud800", "b", "c"]', "surrogate"),
            ("data", '{"name": "\\udfff"}', "surrogate"),
            ("parameters", "9" * 4000, "4000 digits"),
            ("certificate", '{"deep": ' + "9" * 10_000_000 + "}", "10000000 digits"),
        ],
        ids=[
            *("labels", "a long label", "half a character", "half a name", "a long number"),
            "a very long number",
        ],
    )
    def test_absurd_values_are_refused_at_once(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], key: str, value: str, said: str
    ) -> None:
        data = forge(tiny_bytes, {key: value})
        started = time.perf_counter()
        with pytest.raises(ModelFileError, match=said) as error:
            read_model(data)
        assert time.perf_counter() - started < SECONDS
        assert len(str(error.value)) < 600

    def test_megabytes_of_metadata_are_refused(self, onnx_file: Callable[..., bytes]) -> None:
        data = onnx_file(b"\x12\x04main", {"nin_edge.data": f'"{"x" * 17_000_000}"'})
        with pytest.raises(ModelFileError, match="bytes of metadata"):
            read_model(data)

    @pytest.mark.parametrize("size", [1, 15, 513, 4096])
    def test_an_input_side_out_of_its_range_is_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], size: int
    ) -> None:
        steps = {"size": size, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
        changed = {"preprocessing": json.dumps({**steps, "embedded": "full"})}
        with pytest.raises(ModelFileError, match="16 to 512"):
            read_model(forge(tiny_bytes, changed))

    @pytest.mark.parametrize(
        "change",
        [{"size": 32}, {"embedded": "normalize"}, {"embedded": "none"}],
        ids=str,
    )
    def test_a_graph_of_another_kind_than_the_metadata_says_is_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], change: dict[str, object]
    ) -> None:
        steps = {"size": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
        changed = {"preprocessing": json.dumps({**steps, "embedded": "full", **change})}
        with pytest.raises(ModelFileError, match="refused before it is run"):
            read_model(forge(tiny_bytes, changed))

    def test_more_class_maps_than_fit_into_memory_are_refused(self, tiny_bytes: bytes) -> None:
        with pytest.raises(ValueError, match="65,536 classes"):
            graphcheck.check_model(
                tiny_bytes, classes=65_536, size=512, channels=3, embedded="full"
            )

    def test_very_many_golden_samples_are_refused(
        self, tiny_bytes: bytes, forge: Callable[..., bytes]
    ) -> None:
        rows = [[0.5, 0.25, 0.25]] * 65
        golden = {"formula": 1, "images": [[0, 4096, 4096]] * 65, "pytorch": rows, "file": rows}
        with pytest.raises(ModelFileError, match="1 to 64 images"):
            read_model(forge(tiny_bytes, {"golden": json.dumps(golden)}))

    def test_text_is_never_evaluated(
        self, tiny_bytes: bytes, forge: Callable[..., bytes], tmp_path: Path
    ) -> None:
        trap = tmp_path / "trap"
        call = f"__import__('pathlib').Path({str(trap)!r}).touch()"
        for value in (call, json.dumps([call, "{0.__class__}", "%n"])):
            data = forge(tiny_bytes, {"labels": value})
            try:
                labels = read_model(data)[1].labels
            except ModelFileError:
                continue
            assert labels == (call, "{0.__class__}", "%n")
        assert not trap.exists()


DAMAGE = """
import sys
from pathlib import Path
from nin_edge_runtime import Classifier, ModelFileError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        Classifier(path, provider="cpu", threads=1)
    except ModelFileError:
        print(path.name, "refused")
    else:
        print(path.name, "taken")
"""


class TestDamageWithAValidDigest:
    """benchmarks/damage.py tries five hundred, each in a process of its own."""

    def test_flipped_bits_in_the_graph_are_refused_or_taken_but_crash_nothing(
        self,
        tiny_bytes: bytes,
        rng: np.random.Generator,
        tmp_path: Path,
        run_python: Callable[..., subprocess.CompletedProcess[str]],
    ) -> None:
        count = 60
        for index in range(count):
            broken = bytearray(tiny_bytes)
            for _ in range(rng.integers(1, 4)):
                broken[rng.integers(0, tiny_bytes.index(b"nin_edge."))] ^= 1 << int(rng.integers(8))
            try:
                data = resigned(bytes(broken))
            except ValueError:
                data = bytes(broken)
            (tmp_path / f"{index:02}.onnx").write_bytes(data)
        done = run_python(DAMAGE, tmp_path)
        assert done.returncode == 0, done.stderr
        results = done.stdout.split()[1::2]
        assert len(results) == count
        assert set(results) == {"refused", "taken"}

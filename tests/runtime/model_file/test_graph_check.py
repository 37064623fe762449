"""Model files made to do harm: whole, with a valid SHA-256, and still refused before they are run.

They are made with the onnx package and sealed by the export stage itself, as a stranger would.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from nin_edge_runtime import Classifier, ModelFileError, read_model
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.model_file.protobuf import MAX_FIELDS

Change = Callable[[ModelProto], object]


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
    "a node's tensors": (lambda model: add_attribute(model, tensors=[external("x")]), "tensors"),
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


def scalar_maps(model: ModelProto) -> None:
    for names in (end for item in model.graph.node for end in (item.input, item.output)):
        names[:] = [name.replace("class_maps", "maps") for name in names]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "class_maps"))


SENSELESS: dict[str, tuple[Change, str]] = {
    "a scalar for class maps": (scalar_maps, "class_maps"),
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
    "weights against weights": (broadcast, "only in convolutions"),
    "weights added": (lambda model: broadcast(model, "Add"), "only in convolutions"),
    "int8 weights against int8 weights": (dequantized_broadcast, "only in convolutions"),
    # Operators that the network has no use for.
    "ConstantOfShape": (lambda model: add_node(model, "ConstantOfShape"), "ConstantOfShape"),
    "Flatten axis": (lambda model: add_node(model, "Flatten", axis=0), "attribute 'axis' is 0"),
    "GlobalAveragePool p": (lambda model: add_node(model, "GlobalAveragePool", p=1), "'p' is 1"),
    "Expand": (lambda model: add_node(model, "Expand"), "Expand"),
    "Loop": (loop, "Loop"),
    "no operator": (lambda model: add_node(model, ""), "operator ''"),
    "an unknown tensor": (
        lambda model: node(model, "Relu").input.__setitem__(0, "nowhere"),
        "'nowhere', expected what is computed before",
    ),
    "a name twice": (
        lambda model: (
            add_node(model, "Relu") or model.graph.node[-1].output.__setitem__(0, "pixels")
        ),
        "twice",
    ),
    "an initializer in place of the image": (
        lambda model: setattr(initializer(model), "name", "image"),
        "twice",
    ),
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
    "a huge batch": (
        lambda model: fix_batch(model, 1 << 20),
        "1,048,576 images of a fixed batch, expected at most 4,096",
    ),
}


class TestSenselessGraphs:
    @pytest.mark.parametrize(("change", "said"), SENSELESS.values(), ids=SENSELESS)
    def test_a_senseless_graph_is_refused(
        self,
        graph: ModelProto,
        sealed: Callable[..., bytes],
        refused: Callable[..., str],
        change: Change,
        said: str,
    ) -> None:
        change(graph)
        refused(sealed(graph), f"refused before it is run.*{said}")

    def test_names_from_the_file_cannot_break_the_line(
        self, graph: ModelProto, sealed: Callable[..., bytes], refused: Callable[..., str]
    ) -> None:
        add_node(graph, "Evil\n\x1b[31m" + "x" * 10_000)
        graph.graph.node[-1].name = "first\nsecond"
        assert len(refused(sealed(graph), "Evil")) < 500

    def test_what_is_left_over_is_onnx_runtimes_to_refuse(
        self, graph: ModelProto, sealed: Callable[..., bytes]
    ) -> None:
        node(graph, "Cast").attribute[0].i = TensorProto.FLOAT16  # before float32 constants
        with pytest.raises(ModelFileError, match="ONNX Runtime"):
            Classifier(sealed(graph), provider="cpu")

    def test_the_unchanged_graph_is_taken(
        self, graph: ModelProto, sealed: Callable[..., bytes], tiny_model: Path
    ) -> None:
        image = golden_image(1, 16, 16)
        expected = Classifier(tiny_model, provider="cpu", threads=1)(image)
        resealed = Classifier(sealed(graph), provider="cpu", threads=1)(image)
        assert resealed.probabilities.tolist() == expected.probabilities.tolist()

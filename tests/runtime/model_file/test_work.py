"""Small files that ask for much work: the shapes that follow from a graph bound it before it runs.

One table of limits holds for a network's configuration, for export, and for a stranger's file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import PRESETS, NetworkConfig
from nin_edge_export.graph import build_graph
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.model_file.limits import (
    MAX_BATCH,
    MAX_BATCH_WORK,
    MAX_CONVOLUTIONS,
    MAX_MULTIPLY_ADDS,
    MAX_TENSOR,
    MAX_TENSORS,
    MAX_WEIGHTS,
    Work,
)

Change = Callable[[ModelProto], object]


def node(model: ModelProto, operator: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.op_type == operator)


def attribute(item: onnx.NodeProto, name: str, value: object) -> None:
    """Set an attribute of a node."""
    kept = [entry for entry in item.attribute if entry.name != name]
    del item.attribute[:]
    item.attribute.extend([*kept, helper.make_attribute(name, value)])


def constant(model: ModelProto, name: str, shape: tuple[int, ...]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return name


def append(model: ModelProto, operator: str, inputs: list[str], **attributes: object) -> str:
    """A node at the end, whose output nothing uses."""
    name = f"added.{len(model.graph.node)}"
    model.graph.node.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
    return name


def chain(model: ModelProto, operator: str, count: int, **given: object) -> None:
    """Nodes behind the class maps, one after the other."""
    last = "class_maps"
    for _ in range(count):
        last = append(model, operator, [last], **given)


def dequantize(model: ModelProto, count: int) -> None:
    """An int8 weight that many nodes make as many float32 weights of."""
    weight = numpy_helper.from_array(np.ones((64, 64, 3, 3), np.int8), "int8")
    model.graph.initializer.append(weight)
    unit = constant(model, "unit", ())
    for _ in range(count):
        append(model, "DequantizeLinear", ["int8", unit])


def convolve(model: ModelProto, shape: tuple[int, ...], count: int = 1, **given: object) -> None:
    """Convolutions of the normalised image, one after the other, that share their weights."""
    weight, last = constant(model, "shared", shape), "normalized"
    for _ in range(count):
        last = append(model, "Conv", [last, weight], **given)


def multiply(model: ModelProto, shape: tuple[int, ...], count: int = 1) -> None:
    operand, last = constant(model, "operand", shape), "normalized"
    for _ in range(count):
        last = append(model, "Mul", [last, operand])


def before_the_resize(model: ModelProto, count: int) -> None:
    """Nodes at the size of the image, which may be anything."""
    last = "image"
    for _ in range(count):
        last = append(model, "Cast", [last], to=1)


GREEDY: dict[str, tuple[Change, str]] = {
    "padding beyond the kernel": (
        lambda model: convolve(model, (3, 3, 1, 1), pads=[512] * 4),
        "pads of at most half the kernel",
    ),
    "200 convolutions of 1,040 x 1,040": (
        lambda model: convolve(model, (3, 3, 1, 1), 200, pads=[1] * 4),
        "pads of at most half the kernel",
    ),
    "negative padding": (
        lambda model: convolve(model, (3, 3, 3, 3), pads=[-1] * 4),
        "pads of at most half the kernel",
    ),
    "padding of a pooling": (
        lambda model: attribute(node(model, "MaxPool"), "pads", [2, 2, 2, 2]),
        "at most half the kernel",
    ),
    "padding by name": (
        lambda model: attribute(node(model, "Conv"), "auto_pad", "SAME_UPPER"),
        "'auto_pad' is b'SAME_UPPER'",
    ),
    "a large kernel": (
        lambda model: convolve(model, (3, 3, 99, 99), pads=[49] * 4),
        r"kernel of \(99, 99\), expected at most 31",
    ),
    "a large window of a pooling": (
        lambda model: attribute(node(model, "AveragePool"), "kernel_shape", [512, 512]),
        "'kernel_shape' is",
    ),
    "dilations": (
        lambda model: attribute(node(model, "Conv"), "dilations", [8, 8]),
        "'dilations' is",
    ),
    "groups": (lambda model: attribute(node(model, "Conv"), "group", 3), "'group' is 3"),
    "a stride of 0": (
        lambda model: attribute(node(model, "Conv"), "strides", [0, 0]),
        "strides of 1 to 8",
    ),
    "one stride": (
        lambda model: attribute(node(model, "Conv"), "strides", [1]),
        "strides of 1 to 8",
    ),
    "an attribute twice": (
        lambda model: node(model, "Conv").attribute.append(helper.make_attribute("group", 1)),
        "'group' is 1, .* once",
    ),
    "an attribute of two values": (
        lambda model: setattr(node(model, "Softmax").attribute[0], "s", b"x"),
        "one value of its type",
    ),
    "an attribute of another type": (
        lambda model: setattr(node(model, "Softmax").attribute[0], "type", 1),
        "one value of its type",
    ),
    "an unknown attribute": (
        lambda model: attribute(node(model, "Conv"), "workspace", 512),
        "'workspace' is 512",
    ),
    "weights of other channels": (lambda model: convolve(model, (3, 4, 1, 1)), r"expected \(K, 3"),
    "computed weights": (
        lambda model: append(model, "Conv", ["normalized", "normalized"]),
        "computed weights",
    ),
    "a kernel that does not fit": (lambda model: convolve(model, (3, 3, 31, 31)), "to fit"),
    "a broadcast to 16 times the rows": (
        lambda model: multiply(model, (16, 1, 1, 1), 9),
        "expected a constant that fits the other operand",
    ),
    "a broadcast to another side": (lambda model: multiply(model, (1, 1, 1, 2)), "that fits"),
    "a broadcast to one more side": (lambda model: multiply(model, (2, 1, 1, 1)), "that fits"),
    "two tensors against each other": (
        lambda model: append(model, "Mul", ["normalized", "planes"]),
        "expected a constant",
    ),
    "a second resize": (
        lambda model: append(model, "Resize", ["image", "", "", "size"], axes=[1, 2]),
        "2 nodes Resize, expected at most 1 ",
    ),
    "a resize to another size": (
        lambda model: model.graph.initializer[
            [tensor.name for tensor in model.graph.initializer].index("size")
        ].CopyFrom(numpy_helper.from_array(np.array([512, 512]), "size")),
        r"resizes to \(512, 512\), expected 16 x 16",
    ),
    "a resize of the network": (
        lambda model: append(model, "Resize", ["pixels", "", "", "size"]),
        "expected the image",
    ),
    "a convolution before the resize": (
        lambda model: append(model, "Conv", ["image", constant(model, "early", (3, 16, 1, 1))]),
        "any size",
    ),
    "many nodes before the resize": (lambda model: before_the_resize(model, 9), "before"),
    "another transposition": (
        lambda model: attribute(node(model, "Transpose"), "perm", [3, 2, 1, 0]),
        "'perm' is",
    ),
    "axes beyond the rank": (
        lambda model: append(model, "ReduceSum", ["class_maps", "channel"]),
        "expected what is computed before",
    ),
    "computed axes": (
        lambda model: append(model, "ReduceSum", ["class_maps", "surplus"]),
        "reduces the axes",
    ),
    "too many convolutions": (
        lambda model: convolve(model, (3, 3, 1, 1), MAX_CONVOLUTIONS),
        f"convolutions, expected at most {MAX_CONVOLUTIONS}",
    ),
    "1,850 softmaxes": (
        lambda model: chain(model, "Softmax", 1850, axis=1),
        "1,851 nodes Softmax, expected at most 1 ",
    ),
    "more ReLUs than convolutions": (
        lambda model: chain(model, "Relu", 2),
        "10 nodes Relu, expected at most 9 with 9 convolutions",
    ),
    "many casts": (
        lambda model: chain(model, "Cast", 500, to=1),
        "nodes Cast, expected at most 23",
    ),
    "a second average": (
        lambda model: chain(model, "ReduceMean", 1),
        "2 nodes ReduceMean, expected at most 1 ",
    ),
    "a weight dequantised 90 times": (
        lambda model: dequantize(model, 90),
        "takes 'int8', expected weights once",
    ),
    "a weight of two convolutions": (
        lambda model: convolve(model, (3, 3, 3, 3), 2, pads=[1] * 4),
        "takes 'shared', expected weights once",
    ),
    "too many inputs": (lambda model: node(model, "Relu").input.append("image"), "2 inputs"),
    "too few inputs": (lambda model: node(model, "Add").input.pop(), "1 inputs"),
    "two outputs": (lambda model: node(model, "MaxPool").output.append("indices"), "one output"),
    "maps that are not those declared": (
        lambda model: attribute(node(model, "Conv"), "strides", [2, 2]),
        "expected",
    ),
}


@pytest.mark.parametrize(("change", "said"), GREEDY.values(), ids=GREEDY)
def test_a_greedy_graph_is_refused(
    graph: ModelProto,
    sealed: Callable[..., bytes],
    refused: Callable[..., str],
    change: Change,
    said: str,
) -> None:
    change(graph)
    refused(sealed(graph), f"refused before it is run.*{said}")


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "above",
    [
        Work(MAX_MULTIPLY_ADDS + 1, 1, 1, 1, 1),
        Work(1, MAX_TENSOR + 1, 1, 1, 1),
        Work(1, 1, MAX_TENSORS + 1, 1, 1),
        Work(1, 1, 1, MAX_WEIGHTS + 1, 1),
        Work(1, 1, 1, 1, MAX_CONVOLUTIONS + 1),
    ],
)
def test_each_limit_is_the_largest_allowed_value(above: Work) -> None:
    most = Work(MAX_MULTIPLY_ADDS, MAX_TENSOR, MAX_TENSORS, MAX_WEIGHTS, MAX_CONVOLUTIONS)
    most.check()
    most.check(MAX_BATCH_WORK)
    with pytest.raises(ValueError, match=r"01 .*, expected at most [\d,]+$"):
        above.check()
    with pytest.raises(ValueError, match=r"^a fixed batch of 11 images takes .* at most [\d,]+$"):
        most.check(MAX_BATCH_WORK + 1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("head", ["gap", "fc"])
def test_every_preset_fits_at_every_size(preset: str, head: str) -> None:
    for size in (16, 32, 224, 512):
        NetworkConfig.from_preset(preset, size=size, head=head)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 512, "width": 2.0},
        {"size": 128, "width": 8.0},
        {"blocks": ((8,) * 150,), "kernels": (3,), "pools": ()},
        {"classes": 65_536, "size": 512},
        {"classes": 65_536, "head": "fc", "size": 64},
    ],
    ids=str,
)
def test_a_network_that_no_file_could_hold_is_not_built(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected at most [\d,]+$"):
        NetworkConfig.from_preset("nin", **changes)


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_a_batch_of_4096_small_images_fits(width: float) -> None:
    NetworkConfig.from_preset("nin-bn", width=width).work().check(4096)


def test_a_batch_that_no_file_could_hold_is_not_exported(checkpoint: Checkpoint) -> None:
    checkpoint.config.work().check(MAX_BATCH)
    with pytest.raises(ModelFileError, match=r"^4,097 images of a fixed batch, expected .* 4,096$"):
        build_graph(checkpoint, "none", batch=MAX_BATCH + 1)
    large = replace(checkpoint, config=NetworkConfig.from_preset("nin", classes=3, size=512))
    with pytest.raises(ModelFileError, match=r"^a fixed batch of 20 images takes .* at most"):
        build_graph(large, "none", batch=20)

"""Hostile models for `benchmarks.damage`: changed on purpose, then sealed with a valid SHA-256."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from benchmarks._damage_inputs import Item
from nin_edge_runtime.model_file.operators import OPERATORS
from nin_edge_runtime.model_file.protobuf import fields, tag
from nin_edge_runtime.model_file.read import file_sha256, find_sha256

_GRAPH, _INITIALIZER, _RAW_DATA = tag(7), tag(5), tag(9)  # of ModelProto, GraphProto, TensorProto
_TYPES: Final = [*sorted(code.decode() for code in OPERATORS), "Expand", "Loop", "MatMul", "Pad"]
_NUMBERS: Final = (-512, -1, 0, 1, 2, 3, 7, 31, 512, 1 << 20, (1 << 63) - 1)


def flipped(model: bytes, count: int, rng: np.random.Generator) -> list[Item]:
    """Models with 1 to 4 flipped bits and a new, valid SHA-256, as a forger would make them.

    All flips lie in the graph. In every second file they spare the weights, and hit nodes,
    attributes, names and shapes.
    """
    digits = find_sha256(model)
    assert digits is not None
    graph = next((start, end) for key, start, end in fields(model, 0, len(model)) if key == _GRAPH)
    structure = _outside_weights(model, graph)
    items = []
    for index in range(count):
        broken = bytearray(model)
        for _ in range(rng.integers(1, 5)):
            position = int(rng.choice(structure) if index % 2 else rng.integers(*graph))
            broken[position] ^= 1 << int(rng.integers(8))
        name = "all but weights" if index % 2 else "anywhere"
        items.append((name, _sealed(bytes(broken), digits)))
    return items


def mutated(model: bytes, count: int, rng: np.random.Generator) -> list[Item]:
    """Models with 1 to 3 changes of their structure, one kind each, and a new, valid SHA-256."""
    digits = find_sha256(model)
    assert digits is not None
    items = []
    for index in range(count):
        name, change = list(MUTATIONS.items())[index % len(MUTATIONS)]
        copy = ModelProto.FromString(model)
        for _ in range(rng.integers(1, 4)):
            change(copy.graph, rng)
        items.append((name, _sealed(copy.SerializeToString(), digits)))
    return items


def _sealed(data: bytes, digits: slice) -> bytes:
    """A file with the SHA-256 that fits it."""
    try:
        place = find_sha256(data) or digits
    except ValueError:  # the outermost fields are broken: refused without a look at the digits
        place = digits
    return data[: place.start] + file_sha256(data, place).encode() + data[place.stop :]


def _outside_weights(model: bytes, graph: tuple[int, int]) -> np.ndarray:
    """Positions of the graph's bytes that are not weights."""
    weights = [
        part[1:]
        for tensor in fields(model, *graph)
        if tensor[0] == _INITIALIZER
        for part in fields(model, *tensor[1:])
        if part[0] == _RAW_DATA
    ]
    inside = np.zeros(len(model), bool)
    inside[slice(*graph)] = True
    for start, end in weights:
        inside[start:end] = False
    return np.flatnonzero(inside)


def _some_node(graph: GraphProto, rng: np.random.Generator) -> NodeProto:
    return graph.node[int(rng.integers(len(graph.node)))]


def _tensors(graph: GraphProto) -> Sequence[str]:
    """Names of all tensors."""
    computed = (name for node in graph.node for name in node.output)
    return ["image", "", *(tensor.name for tensor in graph.initializer), *computed]


def _drop(graph: GraphProto, rng: np.random.Generator) -> None:
    """Remove a node; half the time, those after it take its input."""
    node = _some_node(graph, rng)
    source, result = node.input[0] if node.input else "image", list(node.output)
    graph.node.remove(node)
    if rng.integers(2):
        for other in graph.node:
            for place, name in enumerate(other.input):
                if name in result:
                    other.input[place] = source


def _duplicate(graph: GraphProto, rng: np.random.Generator) -> None:
    """Repeat a node at the end, in place of the output, or with the name of its output."""
    node = NodeProto.FromString(_some_node(graph, rng).SerializeToString())
    if rng.integers(3):
        node.output[0] += ".again"
        for other in graph.node:
            for place, name in enumerate(other.input):
                if node.output[0] == f"{name}.again" and rng.integers(2):
                    other.input[place] = node.output[0]
    graph.node.insert(int(rng.integers(len(graph.node) + 1)), node)


def _rewire(graph: GraphProto, rng: np.random.Generator) -> None:
    """Give a node another tensor, one more, or one less."""
    node, names = _some_node(graph, rng), _tensors(graph)
    name = names[int(rng.integers(len(names)))]
    action = rng.integers(4)
    if action == 0 or not node.input:
        node.input.append(name)
    elif action == 1:
        node.input.pop()
    else:
        node.input[int(rng.integers(len(node.input)))] = name


def _retype(graph: GraphProto, rng: np.random.Generator) -> None:
    """Make a node another operator."""
    _some_node(graph, rng).op_type = str(rng.choice(_TYPES))


def _attribute(graph: GraphProto, rng: np.random.Generator) -> None:
    """Change, drop, repeat or rename an attribute."""
    nodes = [node for node in graph.node if node.attribute]
    node = nodes[int(rng.integers(len(nodes)))]
    place = int(rng.integers(len(node.attribute)))
    attribute, number = node.attribute[place], int(rng.choice(_NUMBERS))
    action = rng.integers(6)
    if action == 0:
        del node.attribute[place]
    elif action == 1:
        node.attribute.append(attribute)
    elif action == 2:
        attribute.name = str(rng.choice(["axis", "pads", "group", "dilations", "strides", "to"]))
    elif attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = number
    else:
        attribute.i = number


def _initializer(graph: GraphProto, rng: np.random.Generator) -> None:
    """Change the shape, the type or the name of an initializer."""
    tensor: TensorProto = graph.initializer[int(rng.integers(len(graph.initializer)))]
    action = rng.integers(4)
    if action == 0:
        tensor.dims[:] = [1, *tensor.dims][:4]
    elif action == 1:
        tensor.dims[:] = sorted(tensor.dims)
    elif action == 2:
        tensor.data_type = int(rng.integers(1, 12))
    else:
        tensor.name = str(rng.choice(_tensors(graph)))


def _shape(graph: GraphProto, rng: np.random.Generator) -> None:
    """Change a declared dimension."""
    values = [*graph.input, *graph.output]
    shape = values[int(rng.integers(len(values)))].type.tensor_type.shape
    shape.dim[int(rng.integers(len(shape.dim)))].dim_value = int(rng.choice(_NUMBERS))


MUTATIONS: Final[dict[str, Callable[[GraphProto, np.random.Generator], None]]] = {
    "drop": _drop,
    "duplicate": _duplicate,
    "rewire": _rewire,
    "retype": _retype,
    "attribute": _attribute,
    "initializer": _initializer,
    "shape": _shape,
}
"""Changes of a graph's structure, by name."""

"""Checks, before ONNX Runtime sees it, that a graph is one that `nin-edge export` could write.

A valid SHA-256 shows that a file is whole, not who made it. ONNX Runtime trusts a file: it reads
other files that the graph names, runs loops, and allocates what shapes ask for. So everything that
the contract (docs/artifact.md) does not need is refused here, by lists of what is allowed:
operators, fields, element types, and numbers that fit the network. Nothing is left to recurse into:
subgraphs, functions, and tensors outside of the initializers are refused where they begin.

Weights are skipped, not read: the time depends on the number of nodes, not on the file's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from nin_edge_runtime.model_file.protobuf import (
    FIXED32,
    MAX_FIELDS,
    VARINT,
    Schema,
    Span,
    called,
    count_varints,
    message,
    signed,
    tag,
    text,
)

OPERATORS: Final = frozenset(
    (
        *(b"Add", b"AveragePool", b"Cast", b"Conv", b"DequantizeLinear", b"Div", b"MaxPool"),
        *(b"Mul", b"QuantizeLinear", b"ReduceMean", b"ReduceMin", b"ReduceSum", b"Relu"),
        *(b"Resize", b"Shape", b"Slice", b"Softmax", b"Sub", b"Transpose"),
    )
)
"""All operators of an exported graph, in every precision and mode (docs/artifact.md)."""

MAX_SIDE: Final = 512
"""Largest side of the network's input, and so of any kernel, padding, stride or size in a graph."""

_MIN_OPSET: Final = 18
_MAX_ELEMENTS: Final = 100_000_000  # input pixels, or class map values, of one run
_MAX_SMALL: Final = 16  # elements of a constant that is not a weight: axes, a size, a scale
_MAX_RANK: Final = 4

# ONNX's element types: number -> (bytes of an element, field that holds it if raw_data does not)
_FLOAT, _UINT8, _INT64 = 1, 2, 7
_TYPES: Final = {
    _FLOAT: (4, "float_data"),
    _UINT8: (1, "int32_data"),
    3: (1, "int32_data"),  # int8
    6: (4, "int32_data"),
    _INT64: (8, "int64_data"),
    10: (2, "int32_data"),  # float16
}
_DATA_FIELDS: Final = ("float_data", "int32_data", "int64_data", "raw_data")

# The fields that messages may have, as in onnx.proto. Those with None are refused by name, all
# others by number. A test compares them with the onnx package.
MODEL: Final[Schema] = {
    tag(1, VARINT): ("ir_version", False),
    tag(2): ("producer_name", False),
    tag(3): ("producer_version", False),
    tag(4): ("domain", False),
    tag(5, VARINT): ("model_version", False),
    tag(6): ("doc_string", False),
    tag(7): ("graph", False),
    tag(8): ("opset_import", True),
    tag(14): ("metadata_props", True),
    tag(20): ("training information", None),
    tag(25): ("functions of its own", None),
}
OPSET: Final[Schema] = {tag(1): ("domain", False), tag(2, VARINT): ("version", False)}
GRAPH: Final[Schema] = {
    tag(1): ("node", True),
    tag(2): ("name", False),
    tag(5): ("initializer", True),
    tag(10): ("doc_string", False),
    tag(11): ("input", True),
    tag(12): ("output", True),
    tag(13): ("value_info", True),
    tag(15): ("a sparse initializer", None),
    tag(16): ("metadata_props", True),
}
NODE: Final[Schema] = {
    tag(1): ("input", True),
    tag(2): ("output", True),
    tag(3): ("name", False),
    tag(4): ("op_type", False),
    tag(5): ("attribute", True),
    tag(6): ("doc_string", False),
    tag(7): ("domain", False),
    tag(9): ("metadata_props", True),
}
ATTRIBUTE: Final[Schema] = {
    tag(1): ("name", False),
    tag(2, FIXED32): ("f", False),
    tag(3, VARINT): ("i", False),
    tag(4): ("s", False),
    tag(8, VARINT): ("ints", True),
    tag(13): ("doc_string", False),
    tag(20, VARINT): ("type", False),
    tag(5): ("a tensor", None),
    tag(6): ("a subgraph", None),
    tag(10): ("tensors", None),
    tag(11): ("subgraphs", None),
    tag(22): ("a sparse tensor", None),
    tag(23): ("sparse tensors", None),
}
TENSOR: Final[Schema] = {
    tag(1, VARINT): ("dims", True),
    tag(2, VARINT): ("data_type", False),
    tag(4): ("float_data", True),
    tag(5): ("int32_data", True),
    tag(7): ("int64_data", True),
    tag(8): ("name", False),
    tag(9): ("raw_data", False),
    tag(12): ("doc_string", False),
    tag(13): ("external data, in another file", None),
    tag(14, VARINT): ("data_location", False),
    tag(16): ("metadata_props", True),
}
VALUE: Final[Schema] = {
    tag(1): ("name", False),
    tag(2): ("type", False),
    tag(3): ("doc_string", False),
    tag(4): ("metadata_props", True),
}
TYPE: Final[Schema] = {tag(1): ("tensor_type", False), tag(6): ("denotation", False)}
TENSOR_TYPE: Final[Schema] = {tag(1, VARINT): ("elem_type", False), tag(2): ("shape", False)}
SHAPE: Final[Schema] = {tag(1): ("dim", True)}
DIMENSION: Final[Schema] = {
    tag(1, VARINT): ("dim_value", False),
    tag(2): ("dim_param", False),
    tag(3): ("denotation", False),
}


def check_model(data: bytes, *, classes: int, size: int, channels: int, embedded: str) -> None:
    """Refuse a ModelProto that `nin-edge export` would not write.

    Args:
        data: the file's bytes.
        classes: K, the number of labels.
        size: S, the side of the network's input in pixels.
        channels: C, 1 or 3.
        embedded: which preprocessing the graph does: `full`, `normalize` or `none`.

    Raises:
        ValueError: the graph is refused; the message says why and what was expected, on one line.
    """
    if data[4:8] == b"ORTM":  # ONNX Runtime looks at these bytes, whatever field they belong to
        raise ValueError("it is marked as ONNX Runtime's own format, expected an ONNX model")
    model = message(data, (0, len(data)), MODEL, "the model", MAX_FIELDS)
    _check_opset(data, model.get("opset_import", ()))
    graph = message(data, model["graph"], GRAPH, "the graph", MAX_FIELDS)
    inputs, outputs = (_declared(data, graph.get(end, ())) for end in ("input", "output"))
    batch = inputs.get("image", (0, (None,)))[1][0]
    # Strides and poolings leave a quarter of the side (a 32nd in nin-imagenet), a fully connected
    # layer leaves 1.
    side = outputs.get("class_maps", (0, (0, 0, 0, 1)))[1][-1]
    if side not in (1, -(-size // 4), -(-size // 32)):
        side = -(-size // 4)
    most = (batch or 1) * max(size * size, classes * side * side)
    if most > _MAX_ELEMENTS:
        raise ValueError(
            f"{batch or 1:,} images per run of {size} x {size} pixels and {classes:,} classes, "
            f"expected at most {_MAX_ELEMENTS:,} pixels and values of class maps"
        )
    image = {
        "full": (_UINT8, (batch, None, None, 3)),
        "normalize": (_UINT8, (batch, size, size, 3)),
        "none": (_FLOAT, (batch, channels, size, size)),
    }[embedded]
    results = {
        "probabilities": (_FLOAT, (batch, classes)),
        "class_maps": (_FLOAT, (batch, classes, side, side)),
    }
    for end, declared, expected in (
        ("input", inputs, {"image": image}),
        ("output", outputs, results),
    ):
        if declared != expected:
            raise ValueError(f"{end} {_described(declared)}, expected {_described(expected)}")
    _check_nodes(data, graph.get("node", ()), _constants(data, graph.get("initializer", ())))


def _check_opset(data: bytes, spans: Iterable[Span]) -> None:
    imports = [message(data, span, OPSET, "an operator set") for span in spans]
    opsets = [
        (text(data, opset.get("domain", (0, 0))), opset.get("version", 0)) for opset in imports
    ]
    if len(opsets) != 1 or opsets[0][0] not in ("", "ai.onnx") or opsets[0][1] < _MIN_OPSET:
        raise ValueError(
            f"operator sets {str(opsets)[:200]}, expected only ONNX's own, {_MIN_OPSET} or newer"
        )


# An element type and the dimensions; None where a dimension is free.
_Declared: TypeAlias = "tuple[int, tuple[int | None, ...]]"


def _declared(data: bytes, spans: Iterable[Span]) -> dict[str, _Declared]:
    """The declared types and shapes of inputs or outputs, by name."""
    declared: dict[str, _Declared] = {}
    for span in spans:
        value = message(data, span, VALUE, "a value")
        name = text(data, value.get("name", (0, 0)))
        title = called(data, value, "the type of")
        if "type" not in value:
            raise ValueError(f"{title} is missing, expected a tensor")
        value_type = message(data, value["type"], TYPE, title)
        tensor = message(data, value_type.get("tensor_type", (0, 0)), TENSOR_TYPE, title)
        shape = message(data, tensor.get("shape", (0, 0)), SHAPE, title)
        sides: list[int | None] = []
        for dim in shape.get("dim", ()):
            dimension = message(data, dim, DIMENSION, title)
            side = signed(dimension["dim_value"]) if "dim_value" in dimension else None
            if side is not None and ("dim_param" in dimension or side < 1):
                raise ValueError(f"{title} has a dimension of {side}, expected at least 1")
            sides.append(side)
        if name in declared or not sides:
            raise ValueError(f"{title} is there twice or has no shape, expected one tensor")
        declared[name] = (tensor.get("elem_type", 0), tuple(sides))
    return declared


def _described(values: Mapping[str, _Declared]) -> str:
    """Inputs or outputs for an error message: names, shapes with `?` for free, element types."""
    parts = (
        f"{name[:80]!r} [{', '.join('?' if side is None else str(side) for side in shape)}] "
        f"of type {element_type}"
        for name, (element_type, shape) in values.items()
    )
    return "; ".join(parts)[:400] or "none"


def _constants(data: bytes, spans: Iterable[Span]) -> dict[bytes, tuple[int, int]]:
    """Element type and number of elements of each initializer, by name, once it is checked."""
    constants: dict[bytes, tuple[int, int]] = {}
    for span in spans:
        tensor = message(data, span, TENSOR, "initializer")
        title = called(data, tensor, "initializer")
        if tensor.get("data_location", 0):  # some tools write the 0, for "in this file"
            raise ValueError(f"{title} has external data, expected all data in this file")
        element_type = tensor.get("data_type", 0)
        dims = [signed(dim) for dim in tensor.get("dims", ())]
        if element_type not in _TYPES:
            raise ValueError(f"{title} is of type {element_type}, expected one of {sorted(_TYPES)}")
        count = math.prod(dims)
        if len(dims) > _MAX_RANK or any(dim < 1 for dim in dims):
            raise ValueError(
                f"{title} has the shape {dims[:8]}, expected at most {_MAX_RANK} sides"
            )
        held = _elements_held(data, tensor, *_TYPES[element_type])
        if held != count:
            raise ValueError(f"{title} holds {held} elements, expected {count}, as its shape says")
        if element_type == _INT64:
            _check_integers(data, tensor, count, title)
        constants[data[slice(*tensor.get("name", (0, 0)))]] = (element_type, count)
    return constants


def _elements_held(data: bytes, tensor: Mapping[str, Any], width: int, field: str) -> float:
    """Number of elements in a tensor's data; NaN if it is in two fields or in another type's."""
    holders = [name for name in _DATA_FIELDS if name in tensor]
    if holders == ["raw_data"]:
        start, end = tensor["raw_data"]
        return float(end - start) / width
    if holders != [field]:
        return math.nan
    if field == "float_data":
        return float(sum(end - start for start, end in tensor[field])) / width
    return sum(count_varints(data, span) for span in tensor[field])


def _check_integers(data: bytes, tensor: Mapping[str, Any], count: int, title: str) -> None:
    """Bound axes, sizes and divisors: one of them is the size that `Resize` makes an image of."""
    start, end = tensor.get("raw_data", (0, 0))
    if count > _MAX_SMALL or end - start != 8 * count:
        raise ValueError(f"{title}: expected at most {_MAX_SMALL} integers, as raw data")
    for position in range(start, end, 8):
        value = int.from_bytes(data[position : position + 8], "little", signed=True)
        if abs(value) > MAX_SIDE:
            raise ValueError(f"{title} holds {value}, expected at most {MAX_SIDE}")


def _check_nodes(
    data: bytes, spans: Iterable[Span], constants: Mapping[bytes, tuple[int, int]]
) -> None:
    """Check that operators, their attributes and their constants are those of a network."""
    weights = {name for name, (_, count) in constants.items() if count > _MAX_SMALL}
    checked: set[bytes] = set()  # a whole graph has a dozen different attributes
    nodes = []
    for span in spans:
        node = message(data, span, NODE, "node")
        operator, domain = (data[slice(*node.get(key, (0, 0)))] for key in ("op_type", "domain"))
        if operator not in OPERATORS or domain not in (b"", b"ai.onnx"):
            shown = ".".join(part[:80].decode("utf-8", "replace") for part in (domain, operator))
            raise ValueError(
                f"{called(data, node, 'node')} is of the operator {shown.lstrip('.')!r}, "
                "expected one that nin-edge exports"
            )
        for start, end in node.get("attribute", ()):
            if (coded := data[start:end]) not in checked:
                _check_attribute(data, (start, end), called(data, node, "node"))
                checked.add(coded)
        inputs = [data[start:end] for start, end in node.get("input", ())]
        nodes.append((operator, inputs, node))
        if operator == b"DequantizeLinear" and not weights.isdisjoint(inputs):
            weights.update(data[start:end] for start, end in node.get("output", ()))
    for operator, inputs, node in nodes:
        if operator == b"Resize" and (
            len(inputs) != 4 or inputs[1] or inputs[2] or constants.get(inputs[3]) != (_INT64, 2)
        ):
            raise ValueError(f"{called(data, node, 'node')}: expected a constant height and width")
        activations = inputs[:1] if operator == b"Conv" else inputs
        if operator != b"DequantizeLinear" and not weights.isdisjoint(activations):
            # Two weights could be broadcast against each other, to the product of their sizes.
            raise ValueError(
                f"{called(data, node, 'node')} takes weights, expected them only in convolutions"
            )


def _check_attribute(data: bytes, span: Span, node: str) -> None:
    attribute = message(data, span, ATTRIBUTE, f"{node}: attribute")
    for value in (*attribute.get("ints", ()), attribute.get("i", 0)):
        if abs(signed(value)) > MAX_SIDE:
            raise ValueError(
                f"{called(data, attribute, f'{node}: attribute')} is {signed(value)}, "
                f"expected at most {MAX_SIDE}"
            )

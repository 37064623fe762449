"""Checks, before ONNX Runtime sees it, that a graph is one that `nin-edge export` could write.

A valid SHA-256 shows that a file is whole, not who made it. ONNX Runtime trusts a file: it reads
other files that the graph names, runs loops, and allocates what shapes ask for. So everything that
the contract (docs/artifact.md) does not need is refused here, by lists of what is allowed:
fields, element types, operators with their attributes (`operators.py`). The shapes are followed
from node to node, so that the work of a run is known and bounded (`limits.py`). Nothing is left to
recurse into: subgraphs, functions, and tensors outside of the initializers are refused where they
begin.

Weights are skipped, not read: the time depends on the number of nodes, not on the file's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from nin_edge_runtime.model_file.limits import MAX_SIDE, Work, convolution_work
from nin_edge_runtime.model_file.operators import (
    MAX_SMALL,
    OPERATORS,
    TAKES_WEIGHTS,
    TYPES,
    Operator,
    Tensor,
    Value,
)
from nin_edge_runtime.model_file.protobuf import (
    MAX_FIELDS,
    Span,
    called,
    count_varints,
    message,
    signed,
    text,
)
from nin_edge_runtime.model_file.schema import (
    ATTRIBUTE,
    DIMENSION,
    GRAPH,
    MODEL,
    NODE,
    OPSET,
    SHAPE,
    TENSOR,
    TENSOR_TYPE,
    TYPE,
    VALUE,
)

_MIN_OPSET: Final = {"full": 18, "normalize": 13, "none": 13}  # `Resize` is anti-aliased from 18 on
_MAX_RANK: Final = 4
_MAX_UNSIZED: Final = 8  # tensors before the resize, at the size of the image
_FLOAT, _UINT8, _INT64 = 1, 2, 7  # element types
_DATA_FIELDS: Final = ("float_data", "int32_data", "int64_data", "raw_data")
_RAW_DATA: Final = ["raw_data"]
_ATTRIBUTE_TYPES: Final = {"i": 2, "s": 3, "ints": 7}  # AttributeProto.AttributeType


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
    _check_opset(data, model.get("opset_import", ()), _MIN_OPSET[embedded])
    graph = message(data, model["graph"], GRAPH, "the graph", MAX_FIELDS)
    inputs, outputs = (_declared(data, graph.get(end, ())) for end in ("input", "output"))
    batch = inputs.get("image", (0, (None,)))[1][0]
    # Shapes are those of one image: whatever the batch, it multiplies them, and weights not.
    image, shape = {
        "full": ((_UINT8, (batch, None, None, 3)), (1, size, size, 3)),
        "normalize": ((_UINT8, (batch, size, size, 3)), (1, size, size, 3)),
        "none": ((_FLOAT, (batch, channels, size, size)), (1, channels, size, size)),
    }[embedded]
    known = {b"image": Tensor(shape, unsized=embedded == "full")}
    _add_constants(data, graph.get("initializer", ()), known)
    _follow(data, graph.get("node", ()), known, size).check(batch or 1)
    side = (known.get(b"class_maps", Tensor((1, classes, 1, 1))).shape or (1,))[-1]
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
    for name, (_, sides) in results.items():
        expected_sides = (1, *sides[1:])
        if (found := known.get(name.encode())) is None or found.shape != expected_sides:
            raise ValueError(
                f"{name} of one image is computed as {found and found.shape}, "
                f"expected {expected_sides}"
            )


def _check_opset(data: bytes, spans: Iterable[Span], oldest: int) -> None:
    imports = [message(data, span, OPSET, "an operator set") for span in spans]
    opsets = [
        (text(data, opset.get("domain", (0, 0))), opset.get("version", 0)) for opset in imports
    ]
    if len(opsets) != 1 or opsets[0][0] not in ("", "ai.onnx") or opsets[0][1] < oldest:
        raise ValueError(
            f"operator sets {str(opsets)[:200]}, expected only ONNX's own, {oldest} or newer"
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


def _add_constants(data: bytes, spans: Iterable[Span], known: dict[bytes, Tensor]) -> None:
    """Add each initializer to the known tensors, by name, once it is checked."""
    for span in spans:
        tensor = message(data, span, TENSOR, "initializer")
        try:
            constant = _constant(data, tensor)
        except ValueError as error:
            raise ValueError(f"{called(data, tensor, 'initializer')} {error}") from None
        _define(data, tensor.get("name", (0, 0)), known, constant)


def _constant(data: bytes, tensor: Mapping[str, Any]) -> Tensor:
    """An initializer, checked."""
    if tensor.get("data_location", 0):  # some tools write the 0, for "in this file"
        raise ValueError("has external data, expected all data in this file")
    element_type = tensor.get("data_type", 0)
    dims = tuple(map(signed, tensor.get("dims", ())))
    if element_type not in TYPES:
        raise ValueError(f"is of type {element_type}, expected one of {sorted(TYPES)}")
    count = math.prod(dims)
    if len(dims) > _MAX_RANK or (dims and min(dims) < 1):
        raise ValueError(f"has the shape {dims[:8]}, expected at most {_MAX_RANK} sides")
    held = _elements_held(data, tensor, *TYPES[element_type])
    if held != count:
        raise ValueError(f"holds {held} elements, expected {count}, as its shape says")
    integers = _integers(data, tensor, count) if element_type == _INT64 else ()
    return Tensor(dims, True, integers, weight=count > MAX_SMALL)


def _define(data: bytes, name: Span, known: dict[bytes, Tensor], tensor: Tensor) -> None:
    """Add a tensor by a name that is not taken yet."""
    coded = data[slice(*name)]
    if coded in known:
        raise ValueError(f"{text(data, name)[:80]!r} is there twice, expected one tensor")
    known[coded] = tensor


def _elements_held(data: bytes, tensor: Mapping[str, Any], width: int, field: str) -> float:
    """Number of elements in a tensor's data; NaN if it is in two fields or in another type's."""
    holders = [name for name in _DATA_FIELDS if name in tensor]
    if holders == _RAW_DATA:
        start, end = tensor["raw_data"]
        return (end - start) / width  # type: ignore[no-any-return]
    if holders != [field]:
        return math.nan
    if field == "float_data":
        return float(sum(end - start for start, end in tensor[field])) / width
    return sum(count_varints(data, span) for span in tensor[field])


def _integers(data: bytes, tensor: Mapping[str, Any], count: int) -> tuple[int, ...]:
    """Axes, sizes or divisors, bounded: one of them is the size that `Resize` makes an image of."""
    start, end = tensor.get("raw_data", (0, 0))
    if count > MAX_SMALL or end - start != 8 * count:
        raise ValueError(f"has {count} integers, expected at most {MAX_SMALL}, as raw data")
    values = tuple(
        int.from_bytes(data[position : position + 8], "little", signed=True)
        for position in range(start, end, 8)
    )
    if max(map(abs, values)) > MAX_SIDE:
        raise ValueError(f"holds {max(values, key=abs)}, expected at most {MAX_SIDE}")
    return values


def _follow(data: bytes, spans: Iterable[Span], known: dict[bytes, Tensor], size: int) -> Work:
    """Add what the nodes compute to the known tensors, and sum up the work of one image."""
    multiply_adds = weights = unsized = 0
    largest = total = math.prod(known[b"image"].shape)
    count: dict[bytes, int] = dict.fromkeys(OPERATORS, 0)
    parsed = _Parsed({}, {}, set())
    for span in spans:
        node = message(data, span, NODE, "node")
        try:
            code, output = _computed(data, node, known, parsed)
        except ValueError as error:
            raise ValueError(f"{called(data, node, 'node')}: {error}") from None
        _define(data, node["output"][0], known, output)
        count[code] += 1
        elements = 0 if output.constant else math.prod(output.shape)
        unsized += output.unsized
        if code == b"Conv":
            weight = known[data[slice(*node["input"][1])]].shape
            work = convolution_work(
                weight[1], weight[0], math.prod(weight[2:]), math.prod(output.shape[2:])
            )
            multiply_adds, weights = multiply_adds + work.multiply_adds, weights + work.weights
            largest, total = max(largest, work.largest), total + work.total - elements
        elif code == b"Resize" and output.shape[1:3] != (size, size):
            raise ValueError(
                f"{called(data, node, 'node')}: resizes to {output.shape[1:3]}, "
                f"expected {size} x {size}"
            )
        largest, total = max(largest, elements), total + elements
        if unsized > _MAX_UNSIZED:
            raise ValueError(
                f"more than {_MAX_UNSIZED} nodes at the image's size, expected a resize before"
            )
    convolutions = count[b"Conv"]
    for code, operator in OPERATORS.items():
        fixed, for_each = operator.nodes
        if count[code] > (most := fixed + for_each * convolutions):
            raise ValueError(
                f"{count[code]:,} nodes {code.decode()}, expected at most {most} "
                f"with {convolutions} convolutions"
            )
    return Work(multiply_adds, largest, total, weights, convolutions)


class _Parsed(NamedTuple):
    """Attributes that were checked before: a whole graph has a dozen different ones."""

    single: dict[bytes, tuple[str, Value]]
    """By their bytes: name and value."""
    nodes: dict[tuple[bytes, ...], Mapping[str, Value]]
    """By operator and bytes: all attributes of a node."""
    weights: set[bytes]
    """Names of the weights that a node has read."""


def _computed(
    data: bytes, node: Mapping[str, Any], known: Mapping[bytes, Tensor], parsed: _Parsed
) -> tuple[bytes, Tensor]:
    """The operator of a node and its output, once its attributes and inputs are checked."""
    start, end = node.get("op_type", (0, 0))
    code, domain = data[start:end], data[slice(*node.get("domain", (0, 0)))]
    operator = OPERATORS.get(code)
    if operator is None or domain not in (b"", b"ai.onnx"):
        shown = ".".join(part[:80].decode("utf-8", "replace") for part in (domain, code))
        raise ValueError(
            f"is of the operator {shown.lstrip('.')!r}, expected one that nin-edge exports"
        )
    if len(node.get("output", ())) != 1:
        raise ValueError("has no output or several, expected one output")
    spans = node.get("attribute", ())
    key = (code, *[data[start:end] for start, end in spans])
    if key not in parsed.nodes:
        parsed.nodes[key] = _attributes(data, spans, operator, parsed.single)
    inputs = []
    for start, end in node.get("input", ()):
        tensor = known.get(name := data[start:end])
        if tensor is None and end > start:
            raise ValueError(
                f"takes {text(data, (start, end))[:80]!r}, expected what is computed before it"
            )
        if tensor and tensor.weight:
            if code not in TAKES_WEIGHTS:
                # Two could be broadcast against each other, to the product of their sizes.
                raise ValueError("takes weights, expected them only in convolutions")
            if name in parsed.weights:  # each would be dequantised, and packed, once more
                raise ValueError(f"takes {text(data, (start, end))[:80]!r}, expected weights once")
            parsed.weights.add(name)
        inputs.append(tensor)
    fewest, most = operator.inputs
    if not fewest <= len(inputs) <= most:
        raise ValueError(f"has {len(inputs)} inputs, expected {fewest} to {most}")
    return code, operator.rule(inputs, parsed.nodes[key])


def _attributes(
    data: bytes,
    spans: Iterable[Span],
    operator: Operator,
    parsed: dict[bytes, tuple[str, Value]],
) -> Mapping[str, Value]:
    """The attributes of a node by name, each with a value that the operator may have."""
    attributes: dict[str, Value] = {}
    for start, end in spans:
        if (coded := data[start:end]) not in parsed:
            parsed[coded] = _attribute(data, (start, end))
        name, value = parsed[coded]
        allowed = operator.attributes.get(name, ())
        if name in attributes or (allowed is not None and value not in allowed):
            raise ValueError(
                f"attribute {name[:80]!r} is {str(value)[:80]}, "
                "expected one that nin-edge exports, once"
            )
        attributes[name] = value
    return attributes


def _attribute(data: bytes, span: Span) -> tuple[str, Value]:
    """Name and value of an attribute: a bounded integer, a list of them, or text."""
    attribute = message(data, span, ATTRIBUTE, "attribute")
    title = called(data, attribute, "attribute")
    ints = tuple(map(signed, attribute.get("ints", ())))
    integer = signed(attribute.get("i", 0))
    for number in (*ints, integer):
        if abs(number) > MAX_SIDE:
            raise ValueError(f"{title} is {number}, expected at most {MAX_SIDE}")
    fields = [field for field in _ATTRIBUTE_TYPES if field in attribute]
    if len(fields) != 1 or "f" in attribute or attribute.get("type") != _ATTRIBUTE_TYPES[fields[0]]:
        raise ValueError(f"{title} has {fields or 'no value'}, expected one value of its type")
    values: dict[str, Value] = {
        "i": integer,
        "ints": ints,
        "s": data[slice(*attribute.get("s", (0, 0)))],
    }
    return text(data, attribute.get("name", (0, 0))), values[fields[0]]

"""Does an ONNX file name other files? A walk over the protobuf fields that may hold tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nin_edge_runtime.model_file.protobuf import VARINT, fields, tag

_MAX_FIELDS: Final = 10_000_000
_LOCATION: Final = tag(14, VARINT)  # TensorProto.data_location
_EXTERNAL: Final = 1

# Message -> field -> message, of onnx.proto: every way from a model to a tensor.
_TENSORS: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {tag(7): "graph", tag(25): "function"},
    "graph": {tag(1): "node", tag(5): "tensor", tag(15): "sparse"},
    "function": {tag(7): "node", tag(11): "attribute"},
    "node": {tag(5): "attribute"},
    "attribute": {
        **{tag(5): "tensor", tag(10): "tensor", tag(6): "graph", tag(11): "graph"},
        **{tag(22): "sparse", tag(23): "sparse"},
    },
    "sparse": {tag(1): "tensor", tag(2): "tensor"},
    "tensor": {},
}


def has_external_data(data: bytes) -> bool:
    """Whether a tensor of a model lies in another file.

    Args:
        data: a serialised ONNX model.

    Raises:
        ValueError: not a protobuf message with a graph.
    """
    if not any(key == tag(7) for key, _, _ in fields(data, 0, len(data), _MAX_FIELDS)):
        raise ValueError("it holds no graph")
    waiting = [("model", 0, len(data))]  # a stack: graphs may be nested as deep as a file is long
    while waiting:
        kind, start, end = waiting.pop()
        inner = _TENSORS[kind]
        for key, first, last in fields(data, start, end, _MAX_FIELDS):
            if kind == "tensor" and key == _LOCATION and first == _EXTERNAL:
                return True
            if key in inner:
                waiting.append((inner[key], first, last))
    return False

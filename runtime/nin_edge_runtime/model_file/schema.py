"""The fields that the messages of a model file may have, as in onnx.proto.

Those with None are refused by name, all others by number. A test compares them with the onnx
package.
"""

from __future__ import annotations

from typing import Final

from nin_edge_runtime.model_file.protobuf import FIXED32, VARINT, Schema, tag

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

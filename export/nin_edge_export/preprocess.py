"""Preprocessing as ONNX nodes: the steps of the runtime's `Preprocessing` in the graph.

The nodes are built by hand, since torch's exporter writes `Resize` without `exclude_outside`, which
differs from Pillow by up to 15/255 at the borders.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from nin_edge_runtime.preprocessing import Preprocessing

PIXELS: Final = "pixels"
"""Name of the uint8 tensor [N, S, S, C] after crop, luma and resize, before normalisation."""

NORMALIZED: Final = "normalized"
"""Name of the tensor that the network takes, float32 [N, C, S, S]."""

# ITU-R BT.601 luma in 16-bit fixed point: the integers of Pillow's `convert("L")`.
_LUMA_WEIGHTS: Final = (19595, 38470, 7471)


def build_input(
    preprocessing: Preprocessing, embedded: str, batch: int | None = None
) -> tuple[ValueInfoProto, str]:
    """The graph's input `image`, and the tensor that `build_preprocessing` leaves for the network.

    Args:
        preprocessing: size and channels.
        embedded: `full`: uint8 [N, H, W, 3]; `normalize`: uint8 [N, S, S, 3]; `none`: float32 [N,
            C, S, S].
        batch: N, if it is to be fixed.
    """
    size, channels = preprocessing.size, preprocessing.channels
    if embedded == "none":
        shape: list[str | int] = [batch or "N", channels, size, size]
        return helper.make_tensor_value_info("image", TensorProto.FLOAT, shape), "image"
    sides: list[str | int] = ["H", "W"] if embedded == "full" else [size, size]
    return helper.make_tensor_value_info(
        "image", TensorProto.UINT8, [batch or "N", *sides, 3]
    ), NORMALIZED


def build_preprocessing(
    preprocessing: Preprocessing, embedded: str
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and initializers from `image` to `NORMALIZED`, through `PIXELS`.

    Args:
        preprocessing: size, channels, mean and standard deviation.
        embedded: `full`, `normalize` or `none`, as in `build_input`.
    """
    if embedded == "none":
        return [], []
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def constant(name: str, value: object, dtype: type[np.generic]) -> str:
        constants.append(numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(
            helper.make_node(operator, inputs, [output], name=f"preprocess.{output}", **attributes)
        )
        return output

    last = "image"
    sides = constant("height_and_width_axes", [1, 2], np.int64)
    if embedded == "full":
        # The centred square: both offsets are (side - shorter side) // 2.
        spatial = node("Shape", [last], "height_and_width", start=1, end=3)
        shorter = node("ReduceMin", [spatial], "shorter_side", keepdims=1)
        surplus = node("Sub", [spatial, shorter], "surplus")
        start = node("Div", [surplus, constant("two", [2], np.int64)], "crop_start")
        stop = node("Add", [start, shorter], "crop_end")
        last = node("Slice", [last, start, stop, sides], "crop")
    if preprocessing.channels == 1:
        wide = node("Cast", [last], "wide", to=TensorProto.INT32)
        weighted = node(
            "Mul", [wide, constant("luma_weights", _LUMA_WEIGHTS, np.int32)], "weighted"
        )
        total = node(
            "ReduceSum", [weighted, constant("channel_axis", [3], np.int64)], "luma_sum", keepdims=1
        )
        rounded = node("Add", [total, constant("luma_half", 1 << 15, np.int32)], "luma_rounded")
        luma = node("Div", [rounded, constant("luma_unit", 1 << 16, np.int32)], "luma_wide")
        last = node("Cast", [luma], "luma", to=TensorProto.UINT8)
    if embedded == "full":
        size = constant("size", [preprocessing.size, preprocessing.size], np.int64)
        last = node(
            "Resize",
            [last, "", "", size],  # no region of interest, sizes in place of scales
            PIXELS,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
            antialias=1,
            exclude_outside=1,  # border weights sum to 1 without pixels outside, as in Pillow
            axes=[1, 2],
        )
    # Only now: resizing uint8 NHWC is equal to Pillow, and takes a quarter of the bytes.
    planes = node("Transpose", [last], "planes", perm=[0, 3, 1, 2])  # NHWC -> NCHW
    scale, shift = (part.reshape(-1, 1, 1) for part in preprocessing.scale_and_shift())
    if preprocessing.zero_point is not None:
        step = constant("scale", scale.item(0), np.float32)
        zero = constant("zero_point", preprocessing.zero_point, np.uint8)
        node("DequantizeLinear", [planes, step, zero], NORMALIZED)
    else:  # of a checkpoint from before networks had one scale for all channels
        values = node("Cast", [planes], "values", to=TensorProto.FLOAT)
        scaled = node("Mul", [values, constant("scale", scale, np.float32)], "scaled")
        node("Add", [scaled, constant("shift", shift, np.float32)], NORMALIZED)
    used = {name for item in nodes for name in item.input}
    return nodes, [tensor for tensor in constants if tensor.name in used]

"""The operators of an exported graph: what their attributes may be, and the shapes they give.

`OPERATORS` is the one table of what `nin-edge export` writes; a preset that needs more extends it.
Shapes are those of a run with the smallest batch and with an image of S x S pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from nin_edge_runtime.model_file.limits import MAX_KERNEL, MAX_STRIDE

TYPES: Final = {
    1: (4, "float_data"),
    2: (1, "int32_data"),  # uint8
    3: (1, "int32_data"),  # int8
    6: (4, "int32_data"),
    7: (8, "int64_data"),
    10: (2, "int32_data"),  # float16
}
"""ONNX's element types: number -> (bytes of an element, field that has it if raw_data has not)."""

MAX_SMALL: Final = 16
"""Most elements of a constant that is not a weight: axes, a size, a scale."""

Value: TypeAlias = "int | bytes | tuple[int, ...]"
"""An attribute's value."""


class Tensor(NamedTuple):
    """A tensor, before the graph runs."""

    shape: tuple[int, ...]
    """Its sides; of an image without a fixed size, those of S x S pixels."""
    constant: bool = False
    """Whether it follows from initializers alone."""
    integers: tuple[int, ...] = ()
    """Values of an int64 initializer."""
    unsized: bool = False
    """Whether its sides are those of an image of any size."""
    weight: bool = False
    """Whether it is a constant too large for axes, a size or a scale."""


Inputs: TypeAlias = "Sequence[Tensor | None]"
Attributes: TypeAlias = "Mapping[str, Value]"


class Operator(NamedTuple):
    """What export writes of an operator."""

    inputs: tuple[int, int]
    """Fewest and most inputs."""
    rule: Callable[[Inputs, Attributes], Tensor]
    """The output of inputs and attributes; raises ValueError where export would not write them."""
    attributes: Mapping[str, tuple[Value, ...] | None] = {}
    """Values of each attribute that it may have; None where the rule checks them."""
    nodes: tuple[int, int] = (1, 0)
    """Most nodes of it in a graph: so many, and so many more for each convolution."""


def _given(inputs: Inputs, index: int = 0) -> Tensor:
    """An input that must be there."""
    tensor = inputs[index] if index < len(inputs) else None
    if tensor is None:
        raise ValueError(f"has no input {index}, expected a tensor")
    return tensor


def _same(inputs: Inputs, attributes: Attributes) -> Tensor:
    first = _given(inputs)
    return Tensor(first.shape, unsized=first.unsized)


def _scaled(inputs: Inputs, attributes: Attributes) -> Tensor:
    first = _given(inputs)
    for tensor in inputs[1:]:
        if not (tensor and tensor.constant):
            raise ValueError("has a computed scale, expected a constant one")
    return Tensor(first.shape, first.constant, (), first.unsized, first.weight)


def _combined(inputs: Inputs, attributes: Attributes) -> Tensor:
    """Arithmetic with one constant, which must not enlarge the other operand."""
    first, second = _given(inputs), _given(inputs, 1)
    if first.constant == second.constant:  # the crop: vectors of a height and a width
        fits = max(len(first.shape), len(second.shape)) <= 1
        larger = max(first, second, key=lambda tensor: math.prod(tensor.shape))
    else:
        larger, constant = (second, first) if first.constant else (first, second)
        fits = len(constant.shape) <= len(larger.shape) and all(
            side in (1, whole)
            for side, whole in zip(reversed(constant.shape), reversed(larger.shape), strict=False)
        )
    if not fits:
        raise ValueError(
            f"combines the shapes {first.shape} and {second.shape}, "
            "expected a constant that fits the other operand"
        )
    return Tensor(larger.shape, unsized=larger.unsized)


def _reduced(inputs: Inputs, attributes: Attributes) -> Tensor:
    first = _given(inputs)
    rank = len(first.shape)
    axes: Sequence[int] = range(rank)
    if len(inputs) > 1:
        axes = _given(inputs, 1).integers
        if not axes or not all(-rank <= axis < rank for axis in axes):
            raise ValueError(f"reduces the axes {axes}, expected constant ones, below {rank}")
    reduced = {axis % rank for axis in axes}
    kept = attributes.get("keepdims", 1)
    shape = tuple(
        1 if axis in reduced else side
        for axis, side in enumerate(first.shape)
        if kept or axis not in reduced
    )
    return Tensor(shape, unsized=first.unsized)


def _averaged(inputs: Inputs, attributes: Attributes) -> Tensor:
    return Tensor((*_maps(inputs).shape[:2], 1, 1))


def _flattened(inputs: Inputs, attributes: Attributes) -> Tensor:
    maps = _maps(inputs)
    return Tensor((maps.shape[0], math.prod(maps.shape[1:])))


def _sides(inputs: Inputs, attributes: Attributes) -> Tensor:
    return Tensor((2,))  # height and width


def _cropped(inputs: Inputs, attributes: Attributes) -> Tensor:
    image = _given(inputs)
    if not image.unsized:
        raise ValueError("crops a tensor of fixed size, expected it only before the resize")
    return image  # or less


def _resized(inputs: Inputs, attributes: Attributes) -> Tensor:
    image = _given(inputs)
    size = inputs[3].integers if len(inputs) == 4 and inputs[3] else ()
    if len(size) != 2 or inputs[1] or inputs[2] or len(image.shape) != 4 or not image.unsized:
        raise ValueError("resizes: expected the image and a constant height and width")
    return Tensor((image.shape[0], *size, image.shape[3]))


def _transposed(inputs: Inputs, attributes: Attributes) -> Tensor:
    first = _given(inputs)
    if len(first.shape) != 4 or "perm" not in attributes:
        raise ValueError("transposes, expected images, (0, 3, 1, 2)")
    rows, height, width, channels = first.shape
    return Tensor((rows, channels, height, width), unsized=first.unsized)


def _pooled(inputs: Inputs, attributes: Attributes) -> Tensor:
    maps = _maps(inputs)
    height, width = _slid(maps.shape[2:], (3, 3), attributes)
    return Tensor((*maps.shape[:2], height, width))


def _convolved(inputs: Inputs, attributes: Attributes) -> Tensor:
    maps, weight = _maps(inputs), _given(inputs, 1)
    if not all(tensor and tensor.constant for tensor in inputs[1:]):
        raise ValueError("has computed weights, expected constant ones")
    if len(weight.shape) != 4 or weight.shape[1] != maps.shape[1]:
        raise ValueError(
            f"has weights of shape {weight.shape}, expected (K, {maps.shape[1]}, k, k)"
        )
    kernel = weight.shape[2:]
    if attributes.get("kernel_shape", kernel) != kernel:
        raise ValueError(f"has a kernel_shape other than its weights, expected {kernel}")
    height, width = _slid(maps.shape[2:], kernel, attributes)
    if max(kernel) > MAX_KERNEL and (height, width) != (1, 1):
        raise ValueError(f"has a kernel of {kernel}, expected at most {MAX_KERNEL} or a whole map")
    return Tensor((maps.shape[0], weight.shape[0], height, width))


def _maps(inputs: Inputs) -> Tensor:
    """The input of a convolution or pooling, (N, C, h, w)."""
    maps = _given(inputs)
    if maps.constant or maps.unsized or len(maps.shape) != 4:
        raise ValueError("slides over weights or an image of any size, expected maps")
    return maps


def _slid(sides: tuple[int, ...], kernel: tuple[int, ...], attributes: Attributes) -> list[int]:
    """Sides of the maps that a window gives; the window is padded by at most half of itself."""
    pads, strides = attributes.get("pads", (0,) * 4), attributes.get("strides", (1, 1))
    if (
        not (isinstance(pads, tuple) and isinstance(strides, tuple))
        or (len(pads), len(strides)) != (4, 2)
        or not all(0 <= pad <= side // 2 for pad, side in zip(pads, kernel * 2, strict=True))
        or not all(1 <= stride <= MAX_STRIDE for stride in strides)
    ):
        raise ValueError(
            f"has pads {pads!r} and strides {strides!r} with a kernel of {kernel}, "
            f"expected pads of at most half the kernel and strides of 1 to {MAX_STRIDE}"
        )
    result = [
        (side + pads[axis] + pads[axis + 2] - kernel[axis]) // strides[axis] + 1
        for axis, side in enumerate(sides)
    ]
    if min(result) < 1:
        raise ValueError(f"has a kernel of {kernel} on maps of {sides}, expected it to fit")
    return result


_WINDOW: Final[Mapping[str, tuple[Value, ...] | None]] = {
    "auto_pad": (b"NOTSET",),
    "dilations": ((1, 1),),
    "kernel_shape": None,
    "pads": None,
    "strides": None,
}
_POOL: Final = {**_WINDOW, "kernel_shape": ((3, 3),), "strides": ((2, 2),), "ceil_mode": (0,)}
_AXIS: Final = {"axis": (0, 1)}
_KEEP: Final = {"keepdims": (0, 1)}

OPERATORS: Final[Mapping[bytes, Operator]] = {
    b"Add": Operator((2, 2), _combined, nodes=(3, 0)),
    b"AveragePool": Operator((1, 1), _pooled, {**_POOL, "count_include_pad": (0,)}, nodes=(0, 1)),
    b"Cast": Operator((1, 1), _same, {"to": tuple(TYPES)}, nodes=(5, 2)),
    b"Conv": Operator((2, 3), _convolved, {**_WINDOW, "group": (1,)}, nodes=(0, 1)),
    b"DequantizeLinear": Operator((2, 3), _scaled, _AXIS, nodes=(1, 5)),
    b"Div": Operator((2, 2), _combined, nodes=(3, 0)),
    b"Flatten": Operator((1, 1), _flattened, {"axis": (1,)}),
    b"GlobalAveragePool": Operator((1, 1), _averaged),
    b"MaxPool": Operator((1, 1), _pooled, {**_POOL, "storage_order": (0,)}, nodes=(0, 1)),
    b"Mul": Operator((2, 2), _combined, nodes=(2, 0)),
    b"QuantizeLinear": Operator((2, 3), _scaled, _AXIS, nodes=(1, 3)),
    b"ReduceMean": Operator((1, 2), _reduced, _KEEP),
    b"ReduceMin": Operator((1, 2), _reduced, _KEEP),
    b"ReduceSum": Operator((1, 2), _reduced, _KEEP),
    b"Relu": Operator((1, 1), _same, nodes=(0, 1)),
    b"Resize": Operator(
        (4, 4),
        _resized,
        {
            "mode": (b"linear",),
            "coordinate_transformation_mode": (b"half_pixel",),
            "antialias": (1,),
            "exclude_outside": (1,),
            "axes": ((1, 2),),
        },
    ),
    b"Shape": Operator((1, 1), _sides, {"start": (1,), "end": (3,)}),
    b"Slice": Operator((4, 4), _cropped),
    b"Softmax": Operator((1, 1), _same, {"axis": (1,)}),
    b"Sub": Operator((2, 2), _combined),
    b"Transpose": Operator((1, 1), _transposed, {"perm": ((0, 3, 1, 2),)}),
}
"""All operators of an exported graph, in every precision and mode (docs/artifact.md)."""

TAKES_WEIGHTS: Final = (b"Conv", b"DequantizeLinear")
"""Operators that may have large constants as inputs."""

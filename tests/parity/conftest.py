"""What the parity tests share: the graph's preprocessing on its own, and real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nin_edge_export.graph import IR_VERSION, OPSET
from nin_edge_export.preprocess import PIXELS, build_input, build_preprocessing
from nin_edge_runtime.image import load_image
from nin_edge_runtime.preprocessing import Preprocessing

GraphPixels = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def graph_pixels(preprocessing: Preprocessing) -> GraphPixels:
    """The crop, luma and resize of an exported graph as a function: (H, W, 3) -> (S, S, C)."""
    nodes, constants = build_preprocessing(preprocessing, "full")
    end = next(index for index, node in enumerate(nodes) if PIXELS in node.output)
    image, _ = build_input(preprocessing, "full")
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["N", "S", "S", "C"])
    used = {name for node in nodes[: end + 1] for name in node.input}
    needed = [tensor for tensor in constants if tensor.name in used]
    graph = helper.make_graph(nodes[: end + 1], "pixels", [image], [pixels], needed)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda array: session.run([PIXELS], {"image": array[np.newaxis]})[0][0]


@dataclass(frozen=True, eq=False)
class Photos:
    """Labelled images as a network sees them."""

    images: NDArray[np.uint8]
    """(N, 32, 32, 3)."""
    targets: NDArray[np.int64]
    """(N,), their classes, in the code-point order of the names."""


@pytest.fixture(scope="session")
def cifar(cifar_files: list[Path]) -> Photos:
    """Every tenth test image of CIFAR-10 (JPEG q75), a hundred of each class."""
    names = [path.name.split("-")[0] for path in cifar_files]
    images = np.stack([load_image(path) for path in cifar_files])
    return Photos(images, np.unique(names, return_inverse=True)[1])

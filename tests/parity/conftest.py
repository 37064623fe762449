"""What the parity tests share: the graph's preprocessing on its own, and real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nin_edge.data import Dataset, open_dataset
from nin_edge_export.graph import IR_VERSION, OPSET
from nin_edge_export.preprocess import PIXELS, build_input, build_preprocessing
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


@pytest.fixture(scope="session")
def cifar(data_dir: Path) -> Dataset:
    """CIFAR-10 (JPEG q75), 32 x 32."""
    return open_dataset(data_dir / "cifar10-jpeg.tar.xz", size=32)

"""What the parity tests share: the graph's preprocessing on its own, and real images."""

from __future__ import annotations

import tarfile
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

EVERY = 10
"""One in so many test images is taken: 1,000 are enough to tell a working network by."""

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
def cifar(data_dir: Path) -> Photos:
    """Every tenth test image of CIFAR-10 (JPEG q75), a hundred of each class.

    Read from the archive as it streams by: decoding all 60,000 takes half a minute.
    """
    images, names = [], []
    with tarfile.open(data_dir / "cifar10-jpeg.tar.xz", "r|xz") as tar:
        tests = (member for member in tar if member.isfile() and member.name.startswith("test/"))
        for index, member in enumerate(tests):
            if index % EVERY == 0:
                file = tar.extractfile(member)
                assert file is not None
                images.append(load_image(file.read()))
                names.append(member.name.split("/")[1])
    return Photos(np.stack(images), np.unique(names, return_inverse=True)[1])

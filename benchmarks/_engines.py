"""The engines that `benchmarks.engines` gives exported files to, and the process that each runs in.

An engine gets the file as it is. Two cannot read ONNX, so their own converters come first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks._result import ROOT
from nin_edge_runtime import ModelInfo, read_model
from nin_edge_runtime.golden import golden_image

BUILD: Final = ROOT / "build"
"""Where the packages are that do not go together with others."""

Array: TypeAlias = NDArray[Any]
Run: TypeAlias = Callable[[Array], Array]
"""The graph's input, a batch of one, to its probabilities."""


@dataclass(frozen=True)
class Package:
    """A distribution, and where it is."""

    name: str
    """Its name."""
    place: str = ""
    """Its folder in `BUILD`; empty for the environment that runs the benchmark."""

    def version(self) -> str | None:
        """Its version, or None if it is not installed."""
        path = [str(BUILD / self.place)] if self.place else sys.path
        return next((found.version for found in distributions(name=self.name, path=path)), None)


@dataclass(frozen=True)
class Engine:
    """An engine, and how it loads a file."""

    title: str
    """Its name, and after `by` its converter's: `{}` stands for a version."""
    packages: tuple[Package, ...]
    """Distributions that it needs, in the order of the title's versions."""
    load: Callable[[Path, ModelInfo], Run]
    """Opens a file for one thread."""

    def name(self) -> str:
        """Name and versions; "not installed" for a package that is missing."""
        versions = [package.version() for package in self.packages]
        return self.title.format(*(version or "(not installed)" for version in versions))

    def missing(self) -> str | None:
        """The reason if a package is not installed."""
        for package in self.packages:
            if package.version() is None:
                place = f" in build/{package.place}" if package.place else ""
                return f"{package.name} is not installed{place}"
        return None


def serve(connection: Connection, engine: Engine, paths: Sequence[Path], log: Path) -> None:
    """Run the golden samples of each file, and send what `compared` gives, or the error's text.

    Args:
        connection: to the process that asks.
        engine: the engine.
        paths: model files, in turn.
        log: file for what the engine prints.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    for package in engine.packages:
        if package.place:
            sys.path.insert(0, str(BUILD / package.place))
    for path in paths:
        try:
            connection.send(compared(engine, path))
        except Exception as error:  # whatever an engine raises is the reason
            connection.send(f"{type(error).__name__}: {_told(error)}")


def _told(error: Exception) -> str:
    """The first line of an error's message that says something."""
    lines = [line.strip(" >-\t") for line in str(error).splitlines()]
    return next((line for line in lines if line), "no message")[:200]


def compared(engine: Engine, path: Path) -> tuple[float, float]:
    """Largest difference of a golden sample's probability from PyTorch's, and from the file's own.

    Raises:
        ValueError: a probability is no number, or there are too few.
    """
    info = read_model(path)[1]
    run = engine.load(path, info)
    rows = [
        run(graph_input(info, golden_image(*image))).reshape(-1) for image in info.golden.images
    ]
    probabilities = np.stack(rows)
    expected = (len(rows), len(info.labels))
    if probabilities.shape != expected or not np.isfinite(probabilities).all():
        raise ValueError(
            f"probabilities of shape {probabilities.shape}, expected {expected}, finite"
        )
    pytorch, own = (
        float(np.abs(probabilities - np.array(rows)).max())
        for rows in (info.golden.pytorch, info.golden.file)
    )
    return pytorch, own


def graph_input(info: ModelInfo, image: NDArray[np.uint8]) -> Array:
    """An image (H, W, 3) as the graph's input, a batch of one."""
    if info.embedded == "full":
        return image[np.newaxis]
    pixels = info.preprocessing.resize(image)[np.newaxis]  # (1, S, S, C)
    if info.embedded == "normalize":
        return np.broadcast_to(pixels, (*pixels.shape[:3], 3)).copy()
    return info.preprocessing.normalize(pixels)


# --- The engines ----------------------------------------------------------------------------------


def onnxruntime(path: Path, info: ModelInfo) -> Run:
    """ONNX Runtime with its defaults."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(["probabilities"], {"image": image})[0]


def openvino(path: Path, info: ModelInfo) -> Run:
    """OpenVINO, in the file's precision whatever the processor prefers."""
    from openvino import Core

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    model = Core().compile_model(path, "CPU", settings)
    request, output = model.create_infer_request(), model.output("probabilities")
    return lambda image: request.infer({"image": image})[output]


def opencv(path: Path, info: ModelInfo) -> Run:
    """OpenCV's DNN module."""
    import cv2

    cv2.setNumThreads(1)
    network = cv2.dnn.readNetFromONNX(str(path))

    def run(image: Array) -> Array:
        network.setInput(image, "image")
        return network.forward("probabilities").copy()

    return run


def tract(path: Path, info: ModelInfo) -> Run:
    """tract, optimised."""
    import tract

    model = tract.onnx().load(str(path)).into_model().into_runnable()
    return lambda image: model.run([image])[0].to_numpy()


def ncnn(path: Path, info: ModelInfo) -> Run:
    """ncnn, from what pnnx converts; it has no batches."""
    import ncnn
    import pnnx

    shape = ",".join(map(str, graph_input(info, golden_image(0, 1, 1)).shape))
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    shutil.copy(path, folder / "model.onnx")
    suffix = "f32" if info.embedded == "none" else "u8"
    command = [pnnx.EXEC_PATH, "model.onnx", f"inputshape=[{shape}]{suffix}", "fp16=0"]
    subprocess.run(command, cwd=folder, check=True)
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))
    if "out0" not in net.output_names():
        raise ValueError("pnnx leaves operators that ncnn has not")

    def run(image: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image[0]))
        return np.array(extractor.extract("out0")[1])

    return run


def litert(path: Path, info: ModelInfo) -> Run:
    """LiteRT, from what onnx2tf converts; it makes the second of four axes the last."""
    from ai_edge_litert.interpreter import Interpreter

    folder = Path(tempfile.mkdtemp(dir=path.parent))
    shutil.copy(path, folder / "model.onnx")  # onnx2tf rewrites its input
    # It tests its work with photos from the internet, unless the file is here.
    photos = np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32)
    np.save(folder / "calibration_image_sample_data_20x128x128x3_float32.npy", photos)
    tools = BUILD / "onnx2tf" / "bin"
    command = [tools / "python", "-I", tools / "onnx2tf", "-i", "model.onnx", "-o", "out", "-n"]
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode:
        raise ValueError("onnx2tf fails")
    interpreter = Interpreter(str(folder / "out" / "model_float32.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()
    (place,) = (output["index"] for output in given if len(output["shape"]) == 2)

    def run(image: Array) -> Array:
        interpreter.set_tensor(taken["index"], image.transpose(0, 2, 3, 1))
        interpreter.invoke()
        return interpreter.get_tensor(place)

    return run


_OPENCV, _ONNX2TF = "opencv-python-headless", "onnx2tf/lib/python{}.{}/site-packages"

ENGINES: Final = (
    Engine("ONNX Runtime {}", (Package("onnxruntime"),), onnxruntime),
    Engine("OpenVINO {}", (Package("openvino"),), openvino),
    Engine("OpenCV {}", (Package(_OPENCV),), opencv),
    Engine("OpenCV {}", (Package(_OPENCV, "opencv4"),), opencv),
    Engine("tract {}", (Package("tract"),), tract),
    Engine(
        "LiteRT {} by onnx2tf {}",
        (Package("ai-edge-litert"), Package("onnx2tf", _ONNX2TF.format(*sys.version_info))),
        litert,
    ),
    Engine("ncnn {} by pnnx {}", (Package("ncnn"), Package("pnnx")), ncnn),
)

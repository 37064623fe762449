"""The engines that `benchmarks.peers` compares.

An engine gets the same weights and the same float32 images, already normalised, and returns
probabilities. What it makes of the weights is written to the folder of the `Case` beforehand.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

CALLS: Final = {1: 10, 32: 1}
"""Calls of a turn, by batch size."""

Array: TypeAlias = NDArray[np.float32]
Run: TypeAlias = Callable[[Array], Array]
"""Images (N, C, S, S) to probabilities (N, K), for the batch sizes of `CALLS`."""


@dataclass(frozen=True)
class Case:
    """One network for all engines."""

    checkpoint: Path
    """Its weights."""
    folder: Path
    """Has `fp32.onnx` and `int8.onnx` without preprocessing, `calibration.npy` (training images)
    and `test.npy`, both normalised; takes what engines make of them, and their output."""

    def images(self, split: str) -> Array:
        """The images of `calibration` or `test`, (N, C, S, S)."""
        return np.load(self.folder / f"{split}.npy")


@dataclass(frozen=True)
class Peer:
    """An engine in one precision."""

    name: str
    """Engine, and whose quantisation if there are several."""
    precision: str
    """What it computes in."""
    packages: tuple[str, ...]
    """Distributions that it needs beside torch."""
    load: Callable[[Case, int], Run]
    """Loads the network to run on that many threads."""
    prepare: Callable[[Case], None] | None = None
    """Converts the network first, once for all numbers of threads."""


def onnxruntime(precision: str, case: Case, threads: int) -> Run:
    """Our file in the session that the runtime would make: no spinning threads."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = case.folder / f"{precision}.onnx"
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"image": images})[0]


# --- OpenVINO -------------------------------------------------------------------------------------


def openvino(file: str, settings: dict[str, str], case: Case, threads: int) -> Run:
    """A file in OpenVINO, tuned for latency."""
    from openvino import Core

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads), **settings}
    model = Core().compile_model(case.folder / file, "CPU", settings)
    request, output = model.create_infer_request(), model.output("probabilities")
    return lambda images: request.infer({"image": images}, share_inputs=True)[output]


def openvino_bf16(case: Case, threads: int) -> Run:
    """The fp32 file in OpenVINO's default precision, where that is another one."""
    from openvino import Core

    default = Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    if default != "bf16":
        raise ValueError(f"on this processor its default is {default}")
    return openvino("fp32.onnx", {}, case, threads)


def quantize_with_nncf(case: Case) -> None:
    """OpenVINO's own int8: the fp32 file, quantised by NNCF with its defaults."""
    import nncf
    import openvino

    images = case.images("calibration")
    quantized = nncf.quantize(
        openvino.Core().read_model(case.folder / "fp32.onnx"),
        nncf.Dataset([images[index : index + 1] for index in range(len(images))]),
        subset_size=len(images),
    )
    openvino.save_model(quantized, case.folder / "nncf.xml", compress_to_fp16=False)


# --- ncnn -----------------------------------------------------------------------------------------


def convert_to_ncnn(case: Case) -> None:
    """The fp32 file by pnnx, which writes beside its input."""
    import pnnx

    shape = ",".join(map(str, (1, *case.images("test").shape[1:])))
    command = [pnnx.EXEC_PATH, "fp32.onnx", f"inputshape=[{shape}]", "fp16=0"]
    subprocess.run(command, cwd=case.folder, check=True)


def ncnn(case: Case, threads: int) -> Run:
    """One image at a time: ncnn has no batches."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param(str(case.folder / "fp32.ncnn.param"))
    net.load_model(str(case.folder / "fp32.ncnn.bin"))

    def one(image: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        return np.array(extractor.extract("out0")[1])

    return lambda images: np.stack([one(image) for image in images])


# --- PyTorch and what is converted from it --------------------------------------------------------


def network_of(case: Case) -> nn.Module:
    """The network with its batch normalisation folded, and a softmax."""
    from torch import Tensor, nn

    from nin_edge.checkpoint import Checkpoint
    from nin_edge.kernels import fold_batch_norm

    checkpoint = Checkpoint.load(case.checkpoint)

    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = checkpoint.network()
            fold_batch_norm(self.network)

        def forward(self, images: Tensor) -> Tensor:
            return (self.network(images) / (checkpoint.temperature or 1.0)).softmax(1)

    return Probabilities().eval()


def contiguous_network_of(case: Case) -> nn.Module:
    """The same without channels-last weights, which the converters refuse."""
    import torch

    return network_of(case).to(memory_format=torch.contiguous_format)


def example(case: Case, batch: int) -> tuple[Any]:
    """Arguments of the network."""
    import torch

    return (torch.from_numpy(case.images("calibration")[:batch]),)


def pt2e(case: Case, quantizer: Any, network: nn.Module) -> nn.Module:
    """The network in int8 by PyTorch's own quantisation (PT2E), for any batch size."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    batch = max(CALLS)
    free = ({0: torch.export.Dim("N")},)
    exported = torch.export.export(network, example(case, batch), dynamic_shapes=free)
    observed = prepare_pt2e(exported.module(), quantizer)
    images = torch.from_numpy(case.images("calibration"))
    with torch.no_grad():
        for part in images.split(batch):
            observed(part)
    return convert_pt2e(observed)


def run_torch(network: Callable[..., Any], threads: int) -> Run:
    """A network on that many threads."""
    import torch

    torch.set_num_threads(threads)

    def run(images: Array) -> Array:
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    return run


def compiled(network: nn.Module, threads: int) -> Any:
    """The network for `torch.compile`, with the settings that PyTorch advises for inference."""
    import torch
    from torch._inductor import config

    # As `options` of `torch.compile`, `freezing` does not reach oneDNN's int8 convolutions.
    config.freezing, config.cpp.threads = True, threads
    return torch.compile(network, dynamic=False)


def torch_eager(case: Case, threads: int) -> Run:
    """PyTorch as it is, channels-last."""
    return run_torch(network_of(case), threads)


def torch_compiled(case: Case, threads: int) -> Run:
    """PyTorch, compiled for each batch size."""
    return run_torch(compiled(network_of(case), threads), threads)


def torch_int8(case: Case, threads: int) -> Run:
    """PyTorch's int8 for x86, compiled for each batch size."""
    import torch
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    # Products of 8 bits overflow without VNNI; `reduce_range` is torchao's remedy, as it is ours.
    reduce = not _has_vnni()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=reduce))
    quantized = pt2e(case, quantizer, network_of(case))
    by_batch = {}
    for batch in CALLS:  # oneDNN's convolutions refuse a free batch size
        fixed = torch.export.export(quantized, example(case, batch)).module()
        by_batch[batch] = compiled(fixed, threads)
    return run_torch(lambda images: by_batch[len(images)](images), threads)


def _has_vnni() -> bool:
    from nin_edge_runtime.cpu import cpu_flags

    return bool({"avx512_vnni", "avx_vnni"} & cpu_flags())


def convert_to_executorch(precision: str, case: Case) -> None:
    """A program for each batch size, lowered to XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from executorch.exir import to_edge_transform_and_lower

    network = contiguous_network_of(case)
    if precision == "int8":
        config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
        network = pt2e(case, xnnpack.XNNPACKQuantizer().set_global(config), network)
    for batch in CALLS:
        program = to_edge_transform_and_lower(
            torch.export.export(network, example(case, batch)), partitioner=[XnnpackPartitioner()]
        )
        path = case.folder / f"{precision}.{batch}.pte"
        path.write_bytes(program.to_executorch().buffer)


def executorch(precision: str, case: Case, threads: int) -> Run:
    """The programs, on XNNPACK's threads."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)  # safe before anything is loaded
    programs = {
        batch: Runtime.get().load_program(case.folder / f"{precision}.{batch}.pte")
        for batch in CALLS
    }
    methods = {batch: program.load_method("forward") for batch, program in programs.items()}

    def run(images: Array) -> Array:
        return methods[len(images)].execute((torch.from_numpy(images),))[0].numpy().copy()

    return run


def convert_to_litert(case: Case) -> None:
    """A file for each batch size."""
    import litert_torch

    network = contiguous_network_of(case)
    for batch in CALLS:
        converted = litert_torch.convert(network, example(case, batch))
        converted.export(str(case.folder / f"fp32.{batch}.tflite"))


def litert(case: Case, threads: int) -> Run:
    """The files, on XNNPACK, LiteRT's default."""
    from ai_edge_litert.interpreter import Interpreter

    interpreters = {}
    for batch in CALLS:
        path = str(case.folder / f"fp32.{batch}.tflite")
        interpreters[batch] = Interpreter(path, num_threads=threads)
        interpreters[batch].allocate_tensors()

    def run(images: Array) -> Array:
        interpreter = interpreters[len(images)]
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


# --- All of them ----------------------------------------------------------------------------------

OURS: Final = "ONNX Runtime (ours)"
REFERENCE: Final = "PyTorch"

_F32: Final = {"INFERENCE_PRECISION_HINT": "f32"}

PEERS: Final = (
    Peer(OURS, "fp32", ("onnxruntime",), partial(onnxruntime, "fp32")),
    Peer("OpenVINO", "fp32", ("openvino",), partial(openvino, "fp32.onnx", _F32)),
    Peer("OpenVINO", "bf16", ("openvino",), openvino_bf16),
    Peer("ncnn", "fp32", ("ncnn", "pnnx"), ncnn, convert_to_ncnn),
    Peer(REFERENCE, "fp32", (), torch_eager),
    Peer("torch.compile", "fp32", (), torch_compiled),
    Peer(
        "ExecuTorch, XNNPACK",
        "fp32",
        ("executorch",),
        partial(executorch, "fp32"),
        partial(convert_to_executorch, "fp32"),
    ),
    Peer("LiteRT, XNNPACK", "fp32", ("ai-edge-litert", "litert-torch"), litert, convert_to_litert),
    Peer(OURS, "int8", ("onnxruntime",), partial(onnxruntime, "int8")),
    Peer("OpenVINO, our int8", "int8", ("openvino",), partial(openvino, "int8.onnx", {})),
    Peer(
        "OpenVINO, NNCF's int8",
        "int8",
        ("openvino", "nncf"),
        partial(openvino, "nncf.xml", {}),
        quantize_with_nncf,
    ),
    Peer("torch.compile, PT2E", "int8", ("torchao",), torch_int8),
    Peer(
        "ExecuTorch, XNNPACK",
        "int8",
        ("executorch", "torchao"),
        partial(executorch, "int8"),
        partial(convert_to_executorch, "int8"),
    ),
)

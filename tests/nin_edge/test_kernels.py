from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from nin_edge.kernels import AveragePool, ReLU, budgeted_threads, compile_network, fold_batch_norm
from nin_edge.network import PRESETS, NetworkConfig, NiN

FOLDED_TOLERANCE = 1e-5  # relative; 3e-7 was the largest seen
GRADIENT_TOLERANCE = 0.02  # relative; 0.003 was the largest seen


def tiny(preset: str = "nin-bn", **changes: object) -> NiN:
    """8 channels a layer, but for the class maps."""
    torch.manual_seed(0)
    config = {"classes": 3, "width": 0.01, "size": 16, **changes}
    return NiN(NetworkConfig.from_preset(preset, **config)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "budget", "inside"),
    [
        *((4, (1, "cgroup quota"), 1), (2, (8, "number of CPUs"), 2), (1, (2, "CPU affinity"), 1)),
        *((1, (3, "NIN_EDGE_THREADS"), 3), (4, (2, "NIN_EDGE_THREADS"), 2)),
    ],
)
def test_torch_keeps_to_the_budget_and_gets_its_threads_back(
    monkeypatch: pytest.MonkeyPatch, before: int, budget: tuple[int, str], inside: int
) -> None:
    monkeypatch.setattr("nin_edge.kernels.thread_budget", lambda: budget)
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        with budgeted_threads():
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(own)


def gradients(
    network: NiN, images: Tensor, device: torch.device, *, compiled: bool = False
) -> dict[str, Tensor]:
    """Of every weight, on images and weights that lie channels-last, as while training."""
    there = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    given = images.to(device).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(len(images), device=device) % network.config.classes
    forward = compile_network(there) if compiled else there
    nn.functional.cross_entropy(forward(given), targets).backward()
    return {name: weight.grad.cpu() for name, weight in there.named_parameters()}


def check_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in found.items():
        # Rounding flips a ReLU here and there. Of a wrong gradient, all is another.
        error = (gradient - expected[name]).norm() / expected[name].norm()
        assert error < GRADIENT_TOLERANCE, name


def test_relu_gives_torchs_values_and_gradients_in_bfloat16() -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)  # all values there are
    values = bits.view(torch.bfloat16)[~bits.view(torch.bfloat16).isnan()]
    towards = torch.randn(values.shape).bfloat16()
    results = []
    for relu in (ReLU(), nn.ReLU()):
        maps = values.clone().requires_grad_()
        outcome = relu(maps * 1)  # works in place, which a leaf would not let it
        outcome.backward(towards)
        results.append((outcome.detach(), maps.grad))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_relu_works_in_place() -> None:
    for kind in (torch.float32, torch.bfloat16):
        maps = torch.randn(4, 8, 5, 5, dtype=kind).to(memory_format=torch.channels_last)
        rectified = ReLU()(maps)
        assert rectified.data_ptr() == maps.data_ptr()
        assert rectified.is_contiguous(memory_format=torch.channels_last)
        assert rectified.min() == 0


def test_a_broken_activation_in_bfloat16_shows_in_the_statistics() -> None:
    network = tiny(size=32).train()
    images = torch.rand(4, 3, 32, 32)
    images[0] = math.inf
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(images)
    assert any(not values.isfinite().all() for values in network.buffers())


@pytest.mark.parametrize("changes", [{}, {"block": "linear"}, {"head": "fc"}])
@pytest.mark.parametrize("preset", PRESETS)
def test_folded_batch_normalisation_gives_the_same_answers(
    preset: str, changes: dict[str, str]
) -> None:
    network = tiny(preset, size=32, **changes)
    for values in (*network.parameters(), *network.buffers()):
        if values.is_floating_point():  # neither means of 0 nor variances of 1
            values.data += torch.rand_like(values)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
        fold_batch_norm(network)
        torch.testing.assert_close(network(images), expected, rtol=FOLDED_TOLERANCE, atol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(layer.bias is not None for layer in convolutions)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method", "ignore:The CUDA Graph is empty")
@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_gpu_gives_every_weight_the_gradient_of_a_cpu(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch, preset: str, compiled: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    size = 64 if preset == "nin-imagenet" else 32
    network = tiny(preset, classes=10, width=0.25, size=size, dropout=0.0).train()
    images = torch.randn(64, 3, size, size)
    expected = gradients(network, images, torch.device("cpu"))
    check_gradients(gradients(network, images, gpu, compiled=compiled), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")
def test_a_compiled_network_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    # The graphs that torch.compile traces, without its compiler, which takes a minute on a CPU:
    # training compiles for GPUs only, where the test above runs all of it.
    compiling = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda network, **_: compiling(network, backend="aot_eager")
    )
    network = tiny().train()
    images, here = torch.randn(16, 3, 16, 16), torch.device("cpu")
    expected = gradients(network, images, here)
    check_gradients(gradients(network, images, here, compiled=True), expected)


@pytest.mark.gpu
def test_a_gpu_averages_and_gives_the_gradient_back_as_a_cpu(gpu: torch.device) -> None:
    torch.manual_seed(0)
    images, weights = torch.randn(2, 8, 9, 9), torch.randn(2, 8, 5, 5)
    found = []
    for device in (torch.device("cpu"), gpu):
        maps = images.to(device).contiguous(memory_format=torch.channels_last).requires_grad_()
        averages = AveragePool()(maps)
        assert averages.is_contiguous(memory_format=torch.channels_last)
        (averages * weights.to(device)).sum().backward()
        assert maps.grad is not None
        found.append((averages.detach().cpu(), maps.grad.cpu()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)

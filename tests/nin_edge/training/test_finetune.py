from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NetworkConfig, NiN
from nin_edge.training.finetune import Pretrained, Teacher, distillation_loss, freeze, hold
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.preprocessing import Preprocessing

LABELS = ("a", "b", "c")
LOGIT_TOLERANCE = 1e-5
GPU_TOLERANCE = 1e-3  # between its sums and a CPU's


def initial(*, seed: int = 1, size: int = 16, **changes: Any) -> Pretrained:
    config = NetworkConfig.from_preset("nin-bn", classes=3, size=size, width=0.01, **changes)
    torch.manual_seed(seed)
    gray = (0.4,) * config.channels
    return Pretrained(
        "weights",
        Checkpoint(
            config=config,
            weights=NiN(config).state_dict(),
            labels=LABELS,
            preprocessing=Preprocessing(config.size, config.channels, gray, gray),
            data=None,  # type: ignore[arg-type]
        ),
    )


def changed(start: Pretrained, config: NetworkConfig, labels: tuple[str, ...]) -> set[str]:
    """Names of the tensors that are not the initial ones."""
    network = NiN(config)
    start.copy_to(network, labels)
    old = start.checkpoint.weights
    return {
        name
        for name, value in network.state_dict().items()
        if value.shape != old[name].shape or not torch.equal(value, old[name])
    }


def test_the_same_classes_keep_all_weights() -> None:
    start = initial()
    assert start.keeps_head(start.checkpoint.config, LABELS)
    assert changed(start, start.checkpoint.config, LABELS) == set()


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "c", "b"), ("a", "b", "c", "d")])
def test_other_classes_get_a_new_last_layer(labels: tuple[str, ...]) -> None:
    start = initial()
    config = replace(start.checkpoint.config, classes=len(labels), size=48)
    assert not start.keeps_head(config, labels)
    found = changed(start, config, labels)
    assert found <= {"stages.6.6.weight", "stages.6.6.bias"}
    assert "stages.6.6.weight" in found


@pytest.mark.parametrize(("size", "kept"), [(16, True), (32, False)])
def test_a_fully_connected_head_is_of_one_size(size: int, kept: bool) -> None:
    start = initial(head="fc")
    config = replace(start.checkpoint.config, size=size)
    assert start.keeps_head(config, LABELS) is kept
    found = changed(start, config, LABELS)
    assert {name.rpartition(".")[0] for name in found} == (
        set() if kept else {"stages.6.6", "stages.8"}
    )


def test_frozen_blocks_neither_learn_nor_gather_statistics() -> None:
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=3, size=16, width=0.01))
    freeze(network, 2)
    network.train()
    hold(network, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.randn(4, 3, 16, 16)).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name for name, w in network.named_parameters() if w.grad is not None}
    assert gradients == {name for name in before if name.startswith("stages.6.")} - statistics()
    moved = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {name for name in statistics() if name.startswith("stages.6.")}


def statistics() -> set[str]:
    buffers = NiN(NetworkConfig.from_preset("nin-bn", classes=3, width=0.01)).named_buffers()
    return {name for name, _ in buffers}


def test_nothing_frozen_is_the_usual_network() -> None:
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=3, width=0.01)).train()
    freeze(network, 0)
    hold(network, 0)
    assert all(weight.requires_grad for weight in network.parameters())
    assert all(module.training for module in network.modules())


def test_weights_are_found_by_name_and_by_path(tiny_weights: Path) -> None:
    shipped = Pretrained.load(Path("nin-cifar10"))
    assert shipped.name == "nin-cifar10"
    assert len(shipped.checkpoint.labels) == 10
    assert len(Pretrained.load(tiny_weights).checkpoint.labels) == 3
    with pytest.raises(ModelFileError, match="or one of nin-cifar10"):
        Pretrained.load(Path("vgg"))


def test_a_fingerprint_is_of_the_weights_alone() -> None:
    one = initial().checkpoint
    assert one.fingerprint() == replace(one, labels=("x", "y", "z")).fingerprint()
    other: dict[str, Tensor] = {**one.weights, "stages.6.6.bias": torch.ones(3)}
    assert one.fingerprint() != replace(one, weights=other).fingerprint()


# --- the teacher ----------------------------------------------------------------------------------


def probabilities(one: Pretrained, pixels: NDArray[np.uint8]) -> Tensor:
    inputs = torch.from_numpy(one.checkpoint.preprocessing.normalize(pixels))
    with torch.no_grad():
        return one.checkpoint.network()(inputs).softmax(1)


@pytest.mark.parametrize("count", [1, 3])
def test_teachers_give_the_mean_of_their_probabilities(
    rng: np.random.Generator, count: int
) -> None:
    several = [initial(seed=seed) for seed in range(count)]
    pixels = rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)  # more than one takes together
    found = Teacher(several, LABELS, 3)(torch.from_numpy(pixels))
    expected = torch.stack([probabilities(one, pixels) for one in several]).mean(0)
    torch.testing.assert_close(found.exp(), expected, rtol=0, atol=LOGIT_TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method", "ignore:The CUDA Graph is empty")
@pytest.mark.gpu
def test_compiled_teachers_of_one_shape_are_not_mixed_up(
    gpu: torch.device, rng: np.random.Generator
) -> None:
    several = [initial(seed=seed) for seed in range(3)]
    teacher = Teacher(several, LABELS, 3, gpu, compiled=True)
    for _ in range(4):  # its CUDA graphs are recorded meanwhile
        pixels = torch.from_numpy(rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8))
        found = teacher(pixels.to(gpu)).exp().cpu()
        expected = Teacher(several, LABELS, 3)(pixels).exp()
        torch.testing.assert_close(found, expected, rtol=0, atol=GPU_TOLERANCE)


def test_each_teacher_sees_images_at_its_own_size() -> None:
    flat = np.full((1, 40, 40, 3), 90, np.uint8)  # of one colour, whatever its size
    found = Teacher([initial(seed=1), initial(seed=2, size=24)], LABELS, 3)(torch.from_numpy(flat))
    own = [
        probabilities(initial(seed=1), flat[:, :16, :16]),
        probabilities(initial(seed=2, size=24), flat[:, :24, :24]),
    ]
    torch.testing.assert_close(found.exp(), torch.stack(own).mean(0), rtol=0, atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("before", [0, 1], ids=["the first", "the second"])
@pytest.mark.parametrize(
    ("labels", "channels", "words"),
    [
        (("a", "b", "x"), 3, "of the classes a, b, x, expected those of the data in their order"),
        (LABELS, 1, "with 1 channels, expected the student's 3"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    labels: tuple[str, ...], channels: int, words: str, before: int
) -> None:
    odd = replace(initial(channels=channels).checkpoint, labels=labels)
    with pytest.raises(ModelFileError, match=f"odd: a teacher {words}"):
        Teacher([*[initial()] * before, Pretrained("odd", odd)], LABELS, 3)


def test_distillation_is_the_divergence_of_the_answers() -> None:
    taught = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    p = taught.softmax(1)
    assert distillation_loss(taught + 5, p.log()).item() == pytest.approx(0, abs=LOGIT_TOLERANCE)
    other = torch.tensor([[3.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
    expected = (p * (p / other.softmax(1)).log()).sum(1).mean()
    assert distillation_loss(other, p.log()).item() == pytest.approx(expected.item())

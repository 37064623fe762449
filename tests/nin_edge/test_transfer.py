from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NetworkConfig, NiN
from nin_edge.transfer import Pretrained, Teacher, distillation_loss, freeze, hold
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.image import Preprocessing

LABELS = ("a", "b", "c")
LOGIT_TOLERANCE = 1e-5


def initial(**changes: Any) -> Pretrained:
    config = NetworkConfig.from_preset("nin-bn", classes=3, size=16, width=0.01, **changes)
    torch.manual_seed(1)
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


def test_a_teacher_gives_its_networks_logits_at_its_own_size(rng: np.random.Generator) -> None:
    start = initial()
    teacher = Teacher(start, LABELS, 3)
    pixels = rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)  # more than it takes together
    checkpoint = start.checkpoint
    with torch.no_grad():
        inputs = torch.from_numpy(checkpoint.preprocessing.normalize(pixels))
        expected = checkpoint.network()(inputs)
    answers = teacher(torch.from_numpy(pixels))
    torch.testing.assert_close(answers, expected, rtol=0, atol=LOGIT_TOLERANCE)
    flat = torch.full((1, 40, 40, 3), 90, dtype=torch.uint8)  # of one colour, whatever its size
    torch.testing.assert_close(
        teacher(flat), teacher(flat[:, :16, :16]), rtol=0, atol=LOGIT_TOLERANCE
    )


@pytest.mark.parametrize(
    ("labels", "channels", "words"),
    [
        (
            ("a", "b", "x"),
            3,
            "a teacher of the classes a, b, c, expected those of the data in their",
        ),
        (LABELS, 1, "a teacher with 3 channels, expected the student's 1"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    labels: tuple[str, ...], channels: int, words: str
) -> None:
    with pytest.raises(ModelFileError, match=words):
        Teacher(initial(), labels, channels)


def test_distillation_is_the_divergence_of_the_answers() -> None:
    taught = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert distillation_loss(taught + 5, taught).item() == pytest.approx(0, abs=LOGIT_TOLERANCE)
    other = torch.tensor([[3.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
    p, q = taught.softmax(1), other.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert distillation_loss(other, taught).item() == pytest.approx(expected.item())

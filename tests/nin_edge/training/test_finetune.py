from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import open_dataset
from nin_edge.network import NetworkConfig, NiN
from nin_edge.training.errors import TrainingError, TrainingStoppedError
from nin_edge.training.finetune import Pretrained, freeze, keep_frozen_in_eval
from nin_edge.training.recipe import Recipe
from nin_edge.training.run_config import WeightsUsed
from nin_edge.training.run_folder import RunFolder
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.preprocessing import Preprocessing

LABELS = ("a", "b", "c")
LEARNT = 0.9  # accuracy on the shapes; chance is a half


def initial(*, seed: int = 1, size: int = 16, preset: str = "nin-bn", **changes: Any) -> Pretrained:
    config = NetworkConfig.from_preset(preset, classes=3, size=size, width=0.01, **changes)
    torch.manual_seed(seed)
    gray = (102 / 255,) * config.channels
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


@pytest.mark.parametrize("preset", ["nin", "nin-bn"])
@torch.inference_mode()
def test_the_first_layer_takes_over_another_normalisation(preset: str) -> None:
    start = initial(preset=preset)
    own = Preprocessing(16, 3, (0.49, 0.48, 0.44), (0.25, 0.24, 0.26))
    start = replace(start, checkpoint=replace(start.checkpoint, preprocessing=own))
    new = start.preprocessing(16)
    assert new.zero_point == 120
    network = NiN(start.checkpoint.config).eval()
    start.copy_to(network, LABELS)
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8).numpy()
    first, before = (
        nn.Sequential(*list(net.stages[0])[:2]) for net in (network, start.checkpoint.network())
    )
    moved, expected = (
        first(torch.from_numpy(new.normalize(pixels))),
        before(torch.from_numpy(own.normalize(pixels))),
    )
    inner = slice(2, -2)  # the padding of the first convolution has another colour
    torch.testing.assert_close(
        moved[:, :, inner, inner], expected[:, :, inner, inner], rtol=0, atol=1e-4
    )


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
    keep_frozen_in_eval(network, 2)
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
    keep_frozen_in_eval(network, 0)
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


# --- in a training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(trained_run: Path) -> Pretrained:
    return Pretrained("shapes", Checkpoint.load(trained_run / "best.safetensors"))


def test_trained_weights_are_a_head_start_on_new_classes(
    start: Pretrained,
    train_tiny: Callable[..., Checkpoint],
    tmp_path: Path,
    make_folder: Callable[..., Path],
) -> None:
    # The same shapes by other names: what the network knows of them is enough from the first.
    dataset = open_dataset(make_folder(tmp_path / "data", {"circle": 40, "square": 40}), size=16)
    config = replace(start.checkpoint.config, classes=2)
    recipe = Recipe(
        epochs=2, batch_size=8, learning_rate=0.05, frozen_blocks=2, round_weights=False
    )
    options = {"dataset": dataset, "network": config, "recipe": recipe}
    best = train_tiny(tmp_path / "run", init=start, **options)
    assert best.trained_scores.test is not None
    assert best.trained_scores.test.top1 >= LEARNT
    assert best.labels == ("circle", "square")
    assert best.preprocessing == start.checkpoint.preprocessing
    for name, weight in best.weights.items():
        old = start.checkpoint.weights[name]
        same = torch.equal(weight, old) if "6.6" not in name else False
        assert same == name.startswith(("stages.0.", "stages.3.")), name
    stored = RunFolder.open(tmp_path / "run").read_config()
    assert stored.init == WeightsUsed("shapes", start.checkpoint.fingerprint())


@pytest.mark.parametrize("cut", ["before the first step", "within"])
def test_fine_tuning_resumes_without_the_weights_it_started_from(
    start: Pretrained,
    train_tiny: Callable[..., Checkpoint],
    short: Recipe,
    tmp_path: Path,
    outcome: Callable[[Path], dict[str, Any]],
    stop_after: Any,
    cut: str,
) -> None:
    options = {
        "network": start.checkpoint.config,
        "recipe": replace(short, epochs=1, frozen_blocks=1),
    }
    train_tiny(tmp_path / "whole", init=start, **options)
    run = tmp_path / "parts"
    stop = stop_after(7) if cut == "within" else stop_after(1, ZeroDivisionError)
    with pytest.raises((TrainingStoppedError, ZeroDivisionError)):
        train_tiny(run, init=start, should_stop=stop, **options)
    train_tiny(run, **options)
    assert outcome(run) == outcome(tmp_path / "whole")


def test_resuming_from_other_weights_is_refused(
    start: Pretrained,
    train_tiny: Callable[..., Checkpoint],
    tmp_path: Path,
    stop_after: Any,
) -> None:
    config = start.checkpoint.config
    with pytest.raises(TrainingStoppedError):
        train_tiny(tmp_path, network=config, init=start, should_stop=stop_after(1))
    zeros = {name: torch.zeros_like(value) for name, value in start.checkpoint.weights.items()}
    other = Pretrained("shapes", replace(start.checkpoint, weights=zeros))
    with pytest.raises(TrainingError, match=r"config\.json: was trained with different init"):
        train_tiny(tmp_path, network=config, init=other)

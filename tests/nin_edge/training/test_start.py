from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset, Location
from nin_edge.network import NetworkConfig
from nin_edge.training.errors import SettingError, TrainingError
from nin_edge.training.recipe import RECIPES
from nin_edge.training.request import Request
from nin_edge.training.run_config import Latency, WeightsUsed
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.start import Choices, Start
from nin_edge.training.state import TrainingState
from nin_edge.training.workers import Workers
from nin_edge_runtime import ModelFileError


def ask(**asked: Any) -> Request:
    names = ("init", "preset", "width", "size")
    return Request(
        **{name: asked.pop(name, None) for name in names},
        distill_from=asked.pop("distill_from", ()),
        settings=asked,  # type: ignore[arg-type]
    )


def choose(dataset: Dataset, shape: tuple[int, int] | None = None, **asked: Any) -> Choices:
    start = Start.new(ask(**asked))
    return start.choose(dataset, shape, 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"preset": "vgg"}, "unknown preset 'vgg': expected one of nin, nin-bn"),
        ({"size": 8}, "size is 8: expected 16 to 512"),
        ({"width": 0.0}, r"width is 0\.0: expected a multiplier above 0"),
        ({"channels": 2}, r"channels is 2: expected 1 \(grey\) or 3"),
        ({"dropout": 1.0}, r"dropout is 1\.0: expected a probability below 1"),
        ({"epochs": 0}, "epochs is 0: expected 1"),
        (
            {"init": "none", "frozen_blocks": 1},
            "frozen_blocks is 1: without init, there are no trained weights",
        ),
        ({"distill_weight": 1.0}, r"distill_weight is 1\.0: without distill_from, there is no"),
        ({"data_name": "\udcff"}, r"data_name is '\\udcff': expected UTF-8"),
        ({"distill_from": ("\udcff.onnx",)}, r"distill_from is '\\udcff.onnx': expected UTF-8"),
        ({"init": "nin-cifar10", "size": 8}, "size is 8: expected 16 to 512"),
        ({"init": "nin-cifar10", "dropout": -1.0}, r"dropout is -1\.0: expected a probability"),
        ({"init": "nin-cifar10", "frozen_blocks": 3}, "expected fewer than the network's 3 blocks"),
        ({"init": "nin-cifar10", "frozen_blocks": -1}, "frozen_blocks is -1: expected 0"),
        ({"init": "nin-cifar10", "width": 0.25}, r"width is 0\.25: .* of nin-cifar10 have 1\.0"),
        ({"init": "nin-cifar10", "preset": "nin"}, "preset is nin: .* of nin-cifar10 have nin-bn"),
        ({"init": "nin-cifar10", "channels": 1}, "channels is 1: .* of nin-cifar10 have 3"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_any_image_is_read(
    asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        Start.new(ask(**asked))


def test_weights_that_are_none_are_refused() -> None:
    for asked in ({"init": "vgg"}, {"distill_from": ("vgg",)}):
        with pytest.raises(ModelFileError, match="vgg: no such file"):
            Start.new(ask(**asked))


def test_a_new_network_is_the_preset_for_the_datas_classes(shapes: Dataset) -> None:
    choices = choose(shapes, width=0.25, size=16, dropout=0.25)
    network = choices.network
    assert (network.preset, network.classes, network.width, network.size, network.dropout) == (
        *("nin-bn", 3, 0.25, 16),
        0.25,
    )
    assert choices.recipe == replace(RECIPES["nin-bn"], batch_size=16)
    assert choices.notes == ()
    assert choices.source.name == shapes.name
    assert choices.source.licence == "not stated"
    named = choose(shapes, data_name="Shapes", data_licence="CC0").source
    assert (named.name, named.licence) == ("Shapes", "CC0")


def test_official_data_sets_keep_their_shape_unless_another_is_asked_for(shapes: Dataset) -> None:
    network = choose(shapes, (28, 1)).network
    assert (network.size, network.channels) == (28, 1)
    network = choose(shapes, (28, 1), size=32, channels=3).network
    assert (network.size, network.channels) == (32, 3)


def test_unequal_classes_are_balanced_with_a_note(shapes: Dataset) -> None:
    unequal = replace(shapes, train=shapes.train[: len(shapes.train) // 3 + 20])
    choices = choose(unequal)
    assert choices.recipe.balanced
    (note,) = choices.notes
    assert "balanced=false shows each image once" in note
    for balanced in (True, False):
        choices = choose(unequal, balanced=balanced)
        assert choices.recipe.balanced is balanced
        assert choices.notes == ()


def test_images_smaller_than_the_network_are_noted(shapes: Dataset) -> None:
    (note,) = choose(replace(shapes, enlarged=4)).notes
    count = len(shapes.targets)
    assert note.startswith(f"4 of {count} images have fewer pixels than the network's 32 x 32")
    assert "--size" in note


def test_fine_tuning_takes_the_weights_network_and_notes_a_new_last_layer(
    shapes: Dataset, tiny_weights: Path
) -> None:
    choices = choose(shapes, init=str(tiny_weights), size=32, epochs=20)
    assert replace(choices.network, size=16) == Checkpoint.load(tiny_weights).config
    assert choices.recipe.epochs == 20
    (note,) = choices.notes
    assert note.startswith(f"{tiny_weights}: a new last layer for 3 classes, its own 3 classes")
    same = replace(shapes, labels=Checkpoint.load(tiny_weights).labels)
    assert choose(same, init=str(tiny_weights)).notes == ()


def test_a_teacher_that_is_smaller_than_its_student_is_noted(
    shapes: Dataset, tiny_weights: Path
) -> None:
    notes = choose(shapes, distill_from=(str(tiny_weights),) * 2, width=0.1).notes
    assert notes == (f"{tiny_weights}: a teacher that is smaller than its student",) * 2
    assert choose(shapes, distill_from=(str(tiny_weights),), width=0.01).notes == ()


# --- resuming -------------------------------------------------------------------------------------


def test_a_run_is_resumed_with_its_own_settings(trained_run: Path, shapes: Dataset) -> None:
    asked = ask(epochs=6, size=16, preset="nin-bn", batch_size=16, data_name="shapes")
    start = Start.resumed(asked, RunFolder(trained_run))
    stored = RunFolder(trained_run).read_config()
    assert start.input_shape((28, 1)) == (stored.network.size, stored.network.channels)
    choices = start.choose(shapes, (28, 1), 1)
    assert (choices.network, choices.recipe) == (stored.network, stored.recipe)
    assert (choices.source.name, choices.source.licence) == ("shapes", "CC0")


@pytest.mark.parametrize(("official", "asked"), [(None, "folder"), ("fashion-mnist",) * 2])
def test_a_resumed_run_knows_what_its_data_are(
    trained_run: Path, official: str | None, asked: str
) -> None:
    start = Start.resumed(ask(), RunFolder(trained_run))
    assert start.stored
    stored = replace(start.stored, location=Location(Path("data"), "data", official))
    assert replace(start, stored=stored).data_settings()["official"] == asked


def test_the_width_for_a_latency_is_searched_for_the_datas_network(shapes: Dataset) -> None:
    asked: list[tuple[NetworkConfig, float]] = []

    def search(network: NetworkConfig, target_ms: float) -> tuple[float, float]:
        asked.append((network, target_ms))
        return 0.25, 0.875

    start = Start.new(ask(latency=1, size=16, channels=1))
    choices = start.fit_width(search, shapes, None, Workers()).choose(shapes, None, 1)
    ((network, target_ms),) = asked
    assert (network.classes, network.size, network.channels) == (3, 16, 1)
    assert target_ms == 1
    assert choices.network == replace(network, width=0.25)
    assert choices.latency == Latency(1.0, 0.875)
    assert choices.notes[0].endswith("takes 0.875 ms (target 1 ms)")


def test_a_run_without_a_state_starts_from_its_first_weights_if_these_are_the_same(
    tmp_path: Path, tiny_weights: Path, trained_run: Path
) -> None:
    folder, weights = RunFolder(tmp_path / "run"), tmp_path / "weights.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    checkpoint = Checkpoint.load(weights)
    used = WeightsUsed(str(weights), checkpoint.fingerprint())
    config = replace(RunFolder(trained_run).read_config(), init=used, latency=Latency(1.0, 0.9))
    folder.write_config(config)
    start = Start.resumed(ask(init=str(weights), latency=1.0), folder)  # the same command again
    assert start.initial
    assert start.initial.checkpoint.fingerprint() == used.sha256
    folder.write_state(config, TrainingState(), {})
    assert Start.resumed(ask(), folder).initial is None  # the state has them
    folder.state.unlink()
    replace(checkpoint, weights={key: x + 1 for key, x in checkpoint.weights.items()}).save(weights)
    with pytest.raises(TrainingError, match=r"no state\.safetensors yet, .* are others by now"):
        Start.resumed(ask(), folder)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"latency": 1.0}, r"latency is 1\.0: the run to resume was started with None"),
        ({"epochs": 2}, "epochs is 2: the run to resume was started with 6"),
        ({"width": 1.0}, r"width is 1\.0: the run to resume was started with 0\.05"),
        ({"init": "other"}, "init is other: the run to resume was started with None"),
        ({"dropout": 0.5}, r"dropout is 0\.5: .* with 0\.0"),
        ({"data_name": "Mine"}, "data_name is Mine: .* with shapes"),
    ],
    ids=str,
)
def test_a_run_is_not_resumed_with_other_settings(
    trained_run: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        Start.resumed(ask(**asked), RunFolder(trained_run))


# --- which weights to start from ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "official", "starts_from"),
    [
        ({}, None, "nin-photo"),
        ({"size": 32}, None, "nin-photo"),
        ({"frozen_blocks": 3}, None, "nin-photo"),
        ({}, "cifar10", None),
        ({"init": "none"}, None, None),
        ({"init": "nin-cifar10"}, None, "nin-cifar10"),
        ({"init": "nin-cifar10"}, "cifar10", "nin-cifar10"),
        ({"preset": "nin-photo"}, None, None),
        ({"width": 0.5}, None, None),
        ({"channels": 1}, None, None),
        ({"channels": 3}, None, "nin-photo"),
        ({"latency": 1.0}, None, None),
    ],
    ids=str,
)
def test_photos_start_from_photo_weights_unless_another_network_is_asked_for(
    asked: dict[str, Any], official: str | None, starts_from: str | None
) -> None:
    location = Location(Path("data"), "data", official)
    start = Start.new(ask(**asked)).suited_to(location)
    assert (start.initial and start.initial.name) == starts_from


def test_no_blocks_are_frozen_where_no_weights_are_trained() -> None:
    start = Start.new(ask(frozen_blocks=1))  # which weights there are depends on the data
    assert start.suited_to(Location(Path("data"), "data", None)).initial
    with pytest.raises(SettingError, match="frozen_blocks is 1: without init, there are no"):
        start.suited_to(Location(Path("cifar10"), "cifar10", "cifar10"))


def test_the_weights_that_were_not_asked_for_are_noted(shapes: Dataset) -> None:
    start = Start.new(ask()).suited_to(Location(Path("data"), "data", None))
    first, *_ = start.choose(shapes, None, 1).notes
    assert first.startswith("starts from nin-photo, which knows 200 kinds of photos; --init names")


def test_images_of_official_data_sets_are_not_enlarged_for_a_teacher(shapes: Dataset) -> None:
    start = Start.new(ask(distill_from=("nin-photo",)))
    official = Location(Path("mnist"), "mnist", official="mnist")
    assert start.with_larger(official, shapes, lambda done, total: None) is shapes


def test_a_teacher_of_other_classes_is_refused_before_images_are_decoded_for_it(
    shapes: Dataset,
) -> None:
    start = Start.new(ask(distill_from=("nin-photo",)))
    missing = Location(Path("missing"), "missing", None)
    with pytest.raises(ModelFileError, match=r"nin-photo: a teacher of the classes .*, expected"):
        start.with_larger(missing, shapes, lambda done, total: None)

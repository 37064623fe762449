from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nin_edge.data import Dataset
from nin_edge.network import PRESETS, NetworkConfig
from nin_edge.training.recipe import RECIPES, Recipe, is_unequal, suited_batch_size


def test_each_preset_has_its_recipe() -> None:
    assert RECIPES.keys() == PRESETS.keys()
    assert RECIPES["nin"].learning_rate < RECIPES["nin-bn"].learning_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0: expected 1 to"),
        ({"batch_size": 1}, "batch_size is 1: expected 2 to"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0: expected 1e-09 to 1000"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"warmup": 1.5}, r"warmup is 1\.5: expected 0 to 1"),
        ({"momentum": 1.0}, r"momentum is 1\.0: expected 0 to 0\.9999"),
        ({"weight_decay": -1.0}, r"weight_decay is -1\.0: expected 0 to 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0: expected 0 to 0\.99"),
        ({"low_resolution": 1.5}, r"low_resolution is 1\.5: expected 0 to 1"),
        ({"crop": 17}, "crop is 17: expected 0 to 16"),
        ({"scale": 0.01}, r"scale is 0\.01: expected 0\.05 to 1"),
        ({"colour": 1.0}, r"colour is 1\.0: expected 0 to 0\.9"),
        ({"cutout": 33}, "cutout is 33: expected 0 to 32"),
        ({"cutmix": 1.5}, r"cutmix is 1\.5: expected 0 to 1"),
        ({"patience": -1}, "patience is -1: expected 0 to"),
        ({"seed": -1}, "seed is -1: expected 0 to"),
        ({"bf16": True, "fp16": True}, "bf16 and fp16 are both on"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_train_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


@pytest.mark.parametrize(
    ("images", "processes", "batch"),
    [
        (49_000, 1, 250),
        (5_000, 1, 250),
        (1_487, 1, 74),
        (240, 1, 16),
        (5_000, 4, 248),
        (240, 3, 48),
        (300, 9, 144),
        (5_000, 200, 400),
    ],
)
def test_few_images_are_given_smaller_batches(images: int, processes: int, batch: int) -> None:
    assert suited_batch_size(250, images, processes=processes) == batch


@pytest.mark.parametrize(
    ("counts", "unequal"), [((10, 10), False), ((10, 14), False), ((10, 15), True), ((1, 9), True)]
)
def test_classes_are_unequal_from_one_and_a_half(counts: tuple[int, int], unequal: bool) -> None:
    assert is_unequal(np.repeat(np.arange(2), counts)) is unequal


# --- suited to the data ---------------------------------------------------------------------------


OF_FEW = {"learning_rate": 0.2, "low_resolution": 0.5}
AUGMENTATION = {"crop": 2, "scale": 1.0, "whole_images": 0.0, "colour": 0.0}


def suited(dataset: Dataset, preset: str = "nin-bn", **options: Any) -> Recipe:
    network = NetworkConfig.from_preset(preset, classes=len(dataset.labels))
    return Recipe.suited_to(dataset, network, **options)


def test_the_presets_recipe_has_a_batch_for_the_data(shapes: Dataset) -> None:
    assert suited(shapes) == replace(RECIPES["nin-bn"], batch_size=16)
    assert suited(shapes, "nin") == replace(RECIPES["nin"], batch_size=16)
    assert suited(shapes, processes=3).batch_size == 48


def test_unequal_classes_are_balanced(shapes: Dataset) -> None:
    few = shapes.train[: len(shapes.train) // 3 + 20]  # sorted by class
    assert suited(replace(shapes, train=few)).balanced
    assert not suited(shapes).balanced


def test_fine_tuning_on_photos_has_its_own_augmentation_and_epochs(shapes: Dataset) -> None:
    tuned = suited(shapes, fine_tuning=True)
    assert tuned.crop == 0 < tuned.colour
    assert tuned.scale < 1
    assert tuned.whole_images > 0
    assert tuned.epochs == 120  # the most, for so few
    for preset in RECIPES:  # that of `nin` is low by itself
        few = suited(shapes, preset, fine_tuning=True).learning_rate
        assert few < RECIPES[preset].learning_rate
    assert replace(tuned, epochs=10, **AUGMENTATION, **OF_FEW) == suited(shapes)
    many = replace(shapes, train=np.resize(shapes.train, 3000))
    tuned = suited(many, fine_tuning=True)
    assert 10 < tuned.epochs < 40
    assert replace(tuned, epochs=10, **AUGMENTATION) == suited(many)
    assert suited(many, fine_tuning=True, epochs=3).epochs == 3
    official = replace(shapes, official="mnist")
    assert suited(official, fine_tuning=True) == suited(official)


def test_what_the_caller_says_counts(shapes: Dataset) -> None:
    changes = {"batch_size": 9, "flip": False, "balanced": True, "patience": 1, "epochs": 3}
    recipe = suited(shapes, fine_tuning=True, **changes)
    assert {name: getattr(recipe, name) for name in changes} == changes
    with pytest.raises(TypeError, match="shade"):
        suited(shapes, shade="red")

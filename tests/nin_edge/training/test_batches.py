from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nin_edge.data import Dataset, open_dataset
from nin_edge.network import NetworkConfig
from nin_edge.training.batches import Batches, Stream, epoch_order, measure_preprocessing
from nin_edge.training.plan import Plan
from nin_edge.training.recipe import Recipe
from nin_edge.training.workers import Workers

COUNTS = (100, 10, 37)
TARGETS = np.repeat(np.arange(3), COUNTS)
TRAIN = np.flatnonzero(np.arange(len(TARGETS)) % 7 != 0)  # the others are the hold-out
PIXEL_ROUNDING = 1e-4  # the preprocessing's numbers are kept to four decimals
PLAIN = Recipe(epochs=2, batch_size=8, crop=0, flip=False, low_resolution=0.0)


# --- the order of an epoch ------------------------------------------------------------------------


def test_an_epoch_shows_each_image_once(rng: np.random.Generator) -> None:
    order = epoch_order(TARGETS, TRAIN, balanced=False, rng=rng)
    assert sorted(order) == list(TRAIN)
    assert list(order) != list(TRAIN)


def test_a_balanced_epoch_shows_each_class_equally_often(rng: np.random.Generator) -> None:
    order = epoch_order(TARGETS, TRAIN, balanced=True, rng=rng)
    assert len(order) == len(TRAIN)
    assert set(order) <= set(TRAIN)
    counts = np.bincount(TARGETS[order], minlength=3)
    assert counts.max() - counts.min() <= 1
    # All images of a small class are shown, equally often but for one time.
    small = np.flatnonzero(TARGETS == 1)
    times = np.bincount(order, minlength=len(TARGETS))[np.intersect1d(small, TRAIN)]
    assert times.min() >= 1
    assert times.max() - times.min() <= 1
    # No image of a large class is shown twice.
    large = np.flatnonzero(TARGETS == 0)
    assert np.bincount(order, minlength=len(TARGETS))[large].max() == 1


def test_balanced_epochs_show_other_images_of_a_large_class(rng: np.random.Generator) -> None:
    large = np.intersect1d(np.flatnonzero(TARGETS == 0), TRAIN)
    seen: set[int] = set()
    for _ in range(12):
        seen |= set(epoch_order(TARGETS, TRAIN, balanced=True, rng=rng))
    assert set(large) <= seen


def test_classes_are_mixed(rng: np.random.Generator) -> None:
    order = TARGETS[epoch_order(TARGETS, TRAIN, balanced=True, rng=rng)]
    assert (np.diff(order) != 0).mean() > 0.4  # two thirds are expected, in order about none


# --- the images of a step -------------------------------------------------------------------------


def batches(dataset: Dataset, recipe: Recipe, workers: Workers | None = None) -> Batches:
    workers = workers or Workers()
    size = dataset.images.shape[1]
    network = NetworkConfig.from_preset("nin-bn", classes=len(dataset.labels), size=size)
    return Batches(
        dataset,
        recipe,
        Plan.of(recipe, network, len(dataset.train), workers.size),
        measure_preprocessing(dataset, size, 3),
        workers=workers,
        device=torch.device("cpu"),
    )


def epoch(dataset: Dataset, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """All images and targets of the first epoch."""
    made = batches(dataset, recipe)
    pairs = [made.get(step) for step in range(len(dataset.train) // recipe.batch_size)]
    pixels, targets = zip(*pairs, strict=True)
    return torch.cat(pixels), torch.cat(targets)


def test_the_streams_have_the_numbers_that_all_results_rest_on() -> None:
    assert {stream.name: stream.value for stream in Stream} == {
        **{"SHIFT": 1, "DROPOUT": 2},
        **{"CUTOUT": 3, "CUTMIX": 4},
        **{"SCALE": 5, "COLOUR": 6},
    }


def test_a_plain_batch_is_of_the_images_and_their_classes(shapes: Dataset) -> None:
    pixels, targets = epoch(shapes, PLAIN)
    assert (len(pixels), len(targets)) == (160, 160)
    originals = {shapes.images[index].tobytes(): shapes.targets[index] for index in shapes.train}
    assert [originals[image.numpy().tobytes()] for image in pixels] == targets.tolist()


def test_batches_are_of_the_larger_images_where_a_teacher_takes_them(shapes: Dataset) -> None:
    recipe = replace(PLAIN, flip=True, scale=0.5, cutmix=0.5)
    twice = np.repeat(np.repeat(shapes.images, 2, 1), 2, 2)
    small, large = (epoch(data, recipe) for data in (shapes, replace(shapes, larger=twice)))
    side = shapes.images.shape[1]
    assert large[0].shape[1:] == (2 * side, 2 * side, 3)
    # The same parts of the same images, but for rounding to pixels.
    maps = large[0].permute(0, 3, 1, 2).float()
    halved = functional.avg_pool2d(maps, 2).permute(0, 2, 3, 1)
    assert (halved - small[0].float()).abs().mean() < 5
    assert (large[1] - small[1]).abs().max() < 0.2


def test_the_last_steps_see_whole_images(shapes: Dataset) -> None:
    made = batches(shapes, replace(PLAIN, scale=0.5, whole_images=0.25))
    originals = {image.tobytes() for image in shapes.images}
    whole = [
        sum(image.numpy().tobytes() in originals for image in made.get(step)[0])
        for step in range(40)
    ]
    assert whole[30:] == [PLAIN.batch_size] * 10
    assert sum(whole[:30]) == 0


def test_every_other_epoch_mirrors_the_other_images(shapes: Dataset) -> None:
    made, plain = batches(shapes, replace(PLAIN, flip=True)), batches(shapes, PLAIN)
    mirrored: list[set[bytes]] = [set(), set()]
    for step in range(40):
        for image, original in zip(made.get(step)[0], plain.get(step)[0], strict=True):
            assert torch.equal(image, original) or torch.equal(image, original.flip(1))
            if not torch.equal(image, original):
                mirrored[step // 20].add(original.numpy().tobytes())
    assert min(map(len, mirrored)) > 40
    assert not mirrored[0] & mirrored[1]


@pytest.mark.parametrize(("size", "side"), [(32, 8), (16, 4)])
def test_cutout_covers_another_square_of_each_image_with_the_mean(
    shapes_folder: Path, size: int, side: int
) -> None:
    dataset = open_dataset(shapes_folder, size=size)
    images, _ = epoch(dataset, PLAIN)
    covered, _ = epoch(dataset, replace(PLAIN, cutout=8))
    changed = (images != covered).any(dim=3)  # (N, S, S)
    assert changed.flatten(1).any(dim=1).all()
    assert max(changed.any(dim=2).sum(dim=1)) == max(changed.any(dim=1).sum(dim=1)) == side
    assert len({mask.numpy().tobytes() for mask in changed}) > 100  # of 160
    mean = 255 * torch.tensor(measure_preprocessing(dataset, size, 3).mean)
    assert (covered[changed] - mean).abs().max() <= 0.5


def test_cutmix_shows_a_square_of_another_image_and_asks_for_its_class_as_much(
    shapes: Dataset,
) -> None:
    images, classes = epoch(shapes, PLAIN)
    mixed_images, wanted = epoch(shapes, replace(PLAIN, cutmix=0.5))
    own = torch.nn.functional.one_hot(classes, len(shapes.labels)).float()
    count = 0
    for index, (mixed, target) in enumerate(zip(mixed_images, wanted, strict=True)):
        changed = (mixed != images[index]).any(dim=2)  # (S, S)
        count += bool(changed.any())
        # From an image of the batch, whose class gets at least the part that changed: what looks
        # alike in both does not show.
        part = 1 - target[classes[index]]
        first = index // 8 * 8
        assert any(
            torch.equal(mixed[changed], images[at][changed])
            and (classes[at] == classes[index] or part >= changed.float().mean())
            and torch.equal(target, torch.lerp(own[index], own[at], part))
            for at in range(first, first + 8)
        )
    assert 60 <= count <= 100  # of 160, half of which are to be


def test_balanced_batches_show_small_classes_as_often(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    dataset = open_dataset(make_folder(tmp_path, {"circle": 60, "square": 8}), size=16)
    _, targets = epoch(dataset, replace(PLAIN, balanced=True))
    counts = torch.bincount(targets)
    assert counts.sum() == len(dataset.train) // 8 * 8
    assert abs(counts[0] - counts[1]) <= 8  # what does not fill a batch is left out


def test_processes_share_a_batch_of_one(shapes: Dataset) -> None:
    recipe = replace(PLAIN, crop=2, flip=True, cutout=8)
    whole = batches(shapes, recipe).get(21)
    parts = [batches(shapes, recipe, Workers(rank, 2)).get(21) for rank in (0, 1)]
    for rank, part in enumerate(parts):
        for own, all_of_them in zip(part, whole, strict=True):
            assert torch.equal(own, all_of_them[rank::2])


def test_a_batch_does_not_depend_on_those_before_it(shapes: Dataset) -> None:
    recipe = Recipe(batch_size=8, cutout=8, cutmix=0.5)
    made = batches(shapes, recipe)
    in_order = [made.get(step) for step in (19, 20, 21)]
    for step, (pixels, targets) in zip((21, 20, 19), reversed(in_order), strict=True):
        again = batches(shapes, recipe).get(step)
        assert torch.equal(again[0], pixels)
        assert torch.equal(again[1], targets)


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_measured_on_the_training_images(
    shapes_folder: Path, channels: int
) -> None:
    dataset = open_dataset(shapes_folder, size=16, channels=channels)
    pixels = dataset.images[dataset.train].astype(np.float64)
    measured = measure_preprocessing(dataset, 16, channels)
    assert measured.zero_point == round(pixels.mean())  # int8 takes the pixels as they are
    assert len(measured.mean) == channels
    assert measured.std[0] == pytest.approx(pixels.std() / 255, abs=PIXEL_ROUNDING)

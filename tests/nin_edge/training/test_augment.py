from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from nin_edge.predict import to_device
from nin_edge.training.augment import (
    alternating_flip,
    augment,
    change_colours,
    cut_mix,
    cut_out,
    random_boxes,
    random_factors,
    random_shifts,
    random_sides,
    resized_crop,
)

Images = NDArray[np.uint8]


def noise(rng: np.random.Generator, count: int = 64, side: int = 8, channels: int = 3) -> Images:
    return rng.integers(0, 256, size=(count, side, side, channels), dtype=np.uint8)


def augmented(
    images: Images, crop: int, flip: NDArray[np.bool_] | None, rng: np.random.Generator
) -> Images:
    return moved(images, crop, random_shifts(len(images), crop, rng), flip)


def moved(
    images: Images, crop: int, shift: NDArray[np.int64], flip: NDArray[np.bool_] | None
) -> Images:
    marked = flip if flip is None else torch.from_numpy(flip)
    given = torch.from_numpy(images)
    return augment(given, crop=crop, shift=torch.from_numpy(shift), flip=marked).numpy()


def windows(image: Images, crop: int) -> list[Images]:
    """Every place that a random crop can take, by rows, then columns."""
    padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)), mode="reflect")
    side, shifts = image.shape[0], range(2 * crop + 1)
    return [padded[y : y + side, x : x + side] for y in shifts for x in shifts]


def test_without_crop_and_flip_images_stay(rng: np.random.Generator) -> None:
    images = noise(rng)
    np.testing.assert_array_equal(augmented(images, 0, None, rng), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_crop_marked_images_are_mirrored(rng: np.random.Generator, channels: int) -> None:
    images, flip = noise(rng, channels=channels), rng.random(64) < 0.5
    expected = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(augmented(images, 0, flip, rng), expected)


@pytest.mark.parametrize("crop", [1, 2, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_one_of_its_shifts(
    rng: np.random.Generator, crop: int, channels: int
) -> None:
    images, flip = noise(rng, channels=channels), rng.random(64) < 0.5
    for image, flipped, out in zip(images, flip, augmented(images, crop, flip, rng), strict=True):
        found = [
            np.array_equal(out[:, ::-1] if flipped else out, window)
            for window in windows(image, crop)
        ]
        assert sum(found) >= 1


def test_every_shift_is_drawn(rng: np.random.Generator) -> None:
    image = noise(rng, count=1)
    shifted = augmented(np.repeat(image, 1000, axis=0), 2, None, rng)
    possible = {window.tobytes() for window in windows(image[0], 2)}
    assert len(possible) == 25
    assert {out.tobytes() for out in shifted} == possible


@pytest.mark.parametrize("crop", [0, 2])
def test_the_result_is_a_new_array_of_the_same_kind(rng: np.random.Generator, crop: int) -> None:
    images = noise(rng)
    before = images.copy()
    out = augmented(images, crop, None, rng)
    assert (out.shape, out.dtype) == (images.shape, np.uint8)
    assert not np.shares_memory(out, images)
    np.testing.assert_array_equal(images, before)


def test_a_part_of_the_images_is_augmented_as_in_the_whole(rng: np.random.Generator) -> None:
    images, flip = noise(rng), rng.random(64) < 0.5
    shift = random_shifts(64, 2, rng)
    whole = moved(images, 2, shift, flip)
    part = moved(images[1::2], 2, shift[1::2], flip[1::2])
    np.testing.assert_array_equal(part, whole[1::2])


def test_the_generator_alone_decides(rng: np.random.Generator) -> None:
    images = noise(rng)
    a, b, other = (augmented(images, 2, None, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, other)


@pytest.mark.parametrize("side", [1, 3, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_square_around_each_centre_is_covered(
    rng: np.random.Generator, side: int, channels: int
) -> None:
    images = noise(rng, channels=channels)
    fill = np.arange(7, 7 + channels, dtype=np.uint8)
    expected = images.copy()
    centre = np.stack(np.divmod(np.arange(64), 8), axis=1)
    for image, (row, column) in zip(expected, centre - side // 2, strict=True):
        for y in range(max(0, row), min(8, row + side)):
            for x in range(max(0, column), min(8, column + side)):
                image[y, x] = fill
    given, at, colour = map(torch.from_numpy, (images, centre, fill))
    found = cut_out(given, side=side, centre=at, fill=colour)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_square_of_each_image_is_replaced_by_its_partner_s(rng: np.random.Generator) -> None:
    images, partner = noise(rng), rng.permutation(64)
    side, centre = rng.integers(0, 9, 64), rng.integers(0, 8, (64, 2))
    expected, own = images.copy(), np.ones(64, np.float32)
    for index, (row, column) in enumerate(centre - side[:, None] // 2):
        for y in range(max(0, row), min(8, row + side[index])):
            for x in range(max(0, column), min(8, column + side[index])):
                expected[index, y, x] = images[partner[index], y, x]
                own[index] -= 1 / 64
    given, sides, at, others = map(torch.from_numpy, (images, side, centre, partner))
    mixed, part = cut_mix(given, side=sides, centre=at, partner=others)
    np.testing.assert_array_equal(mixed.numpy(), expected)
    np.testing.assert_array_equal(part.numpy(), own)  # of sixty-fourths: exact


def test_squares_are_of_all_areas_alike_in_a_part_of_the_images(rng: np.random.Generator) -> None:
    areas = (random_sides(40_000, 32, 0.25, rng) / 32) ** 2
    assert areas.max() == 1
    assert np.mean(areas > 0) == pytest.approx(0.25, abs=0.01)  # four standard errors
    quarters, _ = np.histogram(areas[areas > 0], bins=4, range=(0, 1))
    assert quarters / np.sum(areas > 0) == pytest.approx(0.25, abs=0.03)
    assert not random_sides(100, 32, 0.0, rng).any()


@pytest.mark.gpu
def test_a_gpu_shows_what_a_cpu_shows(gpu: torch.device, rng: np.random.Generator) -> None:
    centre, fill = rng.integers(0, 8, (64, 2)), np.array([7, 8, 9], np.uint8)
    draws = random_shifts(64, 2, rng), rng.random(64) < 0.5, centre, fill
    mixing = rng.integers(0, 9, 64), rng.permutation(64)
    arrays, shown, parts = (noise(rng), *draws, *mixing), [], []
    for device in (torch.device("cpu"), gpu):
        images, shift, flip, at, colour, side, partner = (to_device(one, device) for one in arrays)
        moved = augment(images, crop=2, shift=shift, flip=flip)
        covered = cut_out(moved, side=4, centre=at, fill=colour)
        mixed, part = cut_mix(covered, side=side, centre=at, partner=partner)
        shown.append(mixed.cpu())
        parts.append(part.cpu())
    assert torch.equal(*shown)
    assert torch.equal(*parts)


def test_two_epochs_show_each_image_in_both_ways(rng: np.random.Generator) -> None:
    first = rng.random(100) < 0.5
    shown = [alternating_flip(first, epoch) for epoch in range(4)]
    np.testing.assert_array_equal(shown[0], first)
    for a, b in pairwise(shown):
        np.testing.assert_array_equal(a, ~b)


# --- random parts and colours ---------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_whole_image_in_its_own_colours_stays(rng: np.random.Generator, channels: int) -> None:
    images = torch.from_numpy(noise(rng, channels=channels))
    whole = torch.tensor([[1.0, 1.0, 0.5, 0.5]]).expand(len(images), 4)
    assert torch.equal(resized_crop(images, boxes=whole), images)
    assert torch.equal(change_colours(images, factors=torch.ones(len(images), 3)), images)


@pytest.mark.parametrize(("row", "column"), [(0.25, 0.25), (0.25, 0.75), (0.75, 0.5)])
def test_a_part_is_enlarged_as_pillow_does_it(
    rng: np.random.Generator, row: float, column: float
) -> None:
    small = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC))
    box = torch.tensor([[0.5, 0.5, row, column]])
    (found,) = resized_crop(torch.from_numpy(image.copy())[None], boxes=box).numpy()
    left, top = 16 * column - 4, 16 * row - 4
    expected = Image.fromarray(image).resize(
        (16, 16), Image.Resampling.BILINEAR, box=(left, top, left + 8, top + 8)
    )
    inner = slice(1, -1)  # Pillow sees no pixel outside the part
    difference = found.astype(int) - np.asarray(expected)
    assert abs(difference[inner, inner]).max() <= 1


def test_random_parts_lie_inside_and_have_the_sizes_asked_for(rng: np.random.Generator) -> None:
    height, width, row, column = random_boxes(5000, 0.3, rng).astype(float).T
    for side, centre in ((height, row), (width, column)):
        assert (centre - side / 2).min() >= -1e-6
        assert (centre + side / 2).max() <= 1 + 1e-6
    area, aspect = height * width, height / width
    assert 0.25 < area.min() < 0.32 < 0.95 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.76 < 1.32 < aspect.max() < 1.34


def test_colours_are_changed_as_pillow_does_it(rng: np.random.Generator) -> None:
    image = rng.integers(40, 160, size=(8, 8, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image)[None]
    for place, enhance in ((0, ImageEnhance.Brightness), (2, ImageEnhance.Color)):
        for factor in (0.7, 1.3):
            factors = torch.ones(1, 3)
            factors[0, place] = factor
            (found,) = change_colours(pixels, factors=factors).numpy()
            expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor))
            assert abs(found.astype(int) - expected).max() <= 1
    (found,) = change_colours(pixels, factors=torch.tensor([[1.0, 0.5, 1.0]])).numpy()
    assert found.std() == pytest.approx(image.std() / 2, rel=0.02)
    assert found.mean() == pytest.approx(image.mean(), abs=0.5)  # a rounding
    factors = random_factors(5000, 0.3, rng)
    assert 0.7 <= factors.min() < 0.71 < 1.29 < factors.max() <= 1.3

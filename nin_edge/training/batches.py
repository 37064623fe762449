"""Batches: the order of an epoch, and the augmented images of a step.

Every random number is a function of the seed, the epoch or step, and a named stream. So a resumed
training draws what an uninterrupted one would have drawn, and a batch does not depend on what else
is random.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nin_edge.data import Dataset
from nin_edge.predict import batches, to_device
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
from nin_edge.training.plan import Plan
from nin_edge.training.recipe import Recipe
from nin_edge.training.workers import Workers
from nin_edge_runtime.preprocessing import Preprocessing

_REFERENCE_SIDE = 32  # pixels; a recipe's crop and cutout are per 32 pixels of the image side


class Stream(IntEnum):
    """The random streams of a step. Their numbers are part of the contract.

    A step's generator is seeded with [seed, step, stream] (and the process, where each draws its
    own): changing a number changes the result of every training.
    """

    SHIFT = 1
    DROPOUT = 2
    CUTOUT = 3
    CUTMIX = 4
    SCALE = 5
    COLOUR = 6


class Batches:
    """The batches of a training, augmented, on the device."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        plan: Plan,
        preprocessing: Preprocessing,
        *,
        workers: Workers,
        device: torch.device,
    ) -> None:
        """Prepare to draw batches.

        Args:
            dataset: the images; where it has larger ones, they are used.
            recipe: how to augment them.
            plan: how many there are in a batch.
            preprocessing: has the mean colour, which cutout paints.
            workers: the processes that share each batch.
            device: where to put the images.
        """
        self._dataset, self._recipe, self._plan = dataset, recipe, plan
        self._images = dataset.images if dataset.larger is None else dataset.larger
        self._side = self._images.shape[1]
        self._device, self._rank = device, workers.rank
        self._share = slice(workers.rank, None, workers.size)  # this process's part of a batch
        self._fill = np.round(255 * np.array(preprocessing.mean)).astype(np.uint8)
        # Which images are mirrored in the first epoch.
        self._flips = np.random.default_rng(recipe.seed).random(len(dataset.targets)) < 0.5
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def get(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of a step's batch.

        Args:
            step: the step, counted from 0.

        Returns:
            Pixels, uint8 (N, S, S, C) of the data set's size or larger, and targets: int64 (N,)
            classes, or with CutMix float32 (N, K) probabilities.
        """
        epoch, place = divmod(step, self._plan.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._epoch_order(epoch)
        start = place * self._plan.batch_size
        # Sorted, so that the memory-mapped images are read in the order of the file.
        chosen = np.sort(self._order[start : start + self._plan.batch_size])
        pixels = self._augmented(chosen, epoch, step)
        targets = to_device(self._dataset.targets[chosen[self._share]], self._device)
        return self._mixed(pixels, targets, step) if self._recipe.cutmix else (pixels, targets)

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        return epoch_order(
            self._dataset.targets,
            self._dataset.train,
            balanced=self._recipe.balanced,
            rng=np.random.default_rng([self._recipe.seed, epoch]),
        )

    def _augmented(self, chosen: NDArray[np.int64], epoch: int, step: int) -> Tensor:
        """Shift, mirror, enlarge, colour and cut out this process's share of the chosen images."""
        recipe, size, share = self._recipe, self._side, self._share
        crop = round(recipe.crop * size / _REFERENCE_SIDE)
        hole = round(recipe.cutout * size / _REFERENCE_SIDE)
        # Drawn for the whole batch, so that each image's shift is the same in any number of
        # processes.
        shifts = random_shifts(len(chosen), crop, self._rng(Stream.SHIFT, step))
        flip = None
        if recipe.flip:
            mirrored = alternating_flip(self._flips[chosen[share]], epoch)
            flip = to_device(mirrored, self._device)
        pixels = augment(
            to_device(self._images[chosen[share]], self._device),
            crop=crop,
            shift=to_device(shifts[share], self._device),
            flip=flip,
        )
        if recipe.scale < 1 and step < self._plan.steps - self._plan.whole_image_steps:
            boxes = random_boxes(len(chosen), recipe.scale, self._rng(Stream.SCALE, step))
            pixels = resized_crop(pixels, boxes=to_device(boxes[share], self._device))
        if recipe.colour:
            factors = random_factors(len(chosen), recipe.colour, self._rng(Stream.COLOUR, step))
            pixels = change_colours(pixels, factors=to_device(factors[share], self._device))
        if hole:
            rng = self._rng(Stream.CUTOUT, step)
            centre = rng.integers(0, size, size=(len(chosen), 2))[share]
            pixels = cut_out(
                pixels,
                side=hole,
                centre=to_device(centre, self._device),
                fill=to_device(self._fill, self._device),
            )
        return pixels

    def _mixed(self, pixels: Tensor, targets: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """CutMix within this process's share: the images, and targets as probabilities (N, K)."""
        count, size, classes = len(pixels), self._side, len(self._dataset.labels)
        rng = self._rng(Stream.CUTMIX, step, self._rank)
        partner = to_device(rng.permutation(count), self._device)
        side = random_sides(count, size, self._recipe.cutmix, rng)
        centre = rng.integers(0, size, size=(count, 2))
        pixels, own = cut_mix(
            pixels,
            side=to_device(side, self._device),
            centre=to_device(centre, self._device),
            partner=partner,
        )
        one_hot = nn.functional.one_hot(targets, classes).float()  # (N,) -> (N, K)
        return pixels, torch.lerp(one_hot[partner], one_hot, own[:, None])

    def _rng(self, stream: Stream, step: int, *process: int) -> np.random.Generator:
        return np.random.default_rng([self._recipe.seed, step, stream, *process])


def epoch_order(
    targets: NDArray[np.int64],
    train: NDArray[np.int64],
    *,
    balanced: bool,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The images of one epoch in random order, as many as there are training images.

    Args:
        targets: class of each image of the data set, (M,).
        train: indices of the training images, (N,).
        balanced: whether to subsample large classes, differently in each epoch, and to repeat small
            ones, so that all are seen equally often.
        rng: generator of this epoch.

    Returns:
        Indices of training images, (N,).
    """
    if not balanced:
        return rng.permutation(train)
    classes = [train[targets[train] == label] for label in np.unique(targets[train])]
    # If N is not divisible, some classes get one extra image; which ones differs by epoch.
    shares = np.diff(np.linspace(0, len(train), len(classes) + 1).astype(np.int64))
    chosen = []
    for members, share in zip(classes, rng.permutation(shares), strict=True):
        rounds = [rng.permutation(members) for _ in range(-(-share // len(members)))]
        chosen.append(np.concatenate(rounds)[:share])
    return rng.permutation(np.concatenate(chosen))


def measure_preprocessing(dataset: Dataset, size: int, channels: int) -> Preprocessing:
    """Preprocessing with one mean, a whole pixel value, and one scale for all channels.

    int8 then takes the pixels as they are (`Preprocessing.zero_point`).

    Args:
        dataset: the images, of which those to train on are measured.
        size: their side in pixels.
        channels: their channels.
    """
    total = square = 0.0
    for batch in batches(dataset.images, dataset.train):
        pixels = batch.astype(np.float64)
        total, square = total + pixels.sum(), square + (pixels**2).sum()
    values = len(dataset.train) * size * size * channels
    mean = total / values
    # At least 1: the images may all have one colour, and this is a divisor.
    std = np.sqrt(max(square / values - mean**2, 1.0))
    return Preprocessing(
        size, channels, (round(mean) / 255,) * channels, (round(std / 255, 4),) * channels
    )

"""The plan of a training: how many steps, of how many images, at which resolution."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Self

from nin_edge.network import SIZES, NetworkConfig
from nin_edge.training.errors import TrainingError
from nin_edge.training.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """Steps and sizes of a training, all known before its first step."""

    batch_size: int
    """Images per step, of all processes together."""
    steps_per_epoch: int
    """Steps of an epoch. Images beyond the last full batch are skipped; they differ by epoch."""
    steps: int
    """Steps of all epochs."""
    low_resolution_steps: int
    """How many of these, from the first, are at low resolution."""
    whole_image_steps: int
    """How many of these, to the last, see whole images, not random parts."""
    size: int
    """Side of the images at full resolution, in pixels."""

    @classmethod
    def of(cls, recipe: Recipe, network: NetworkConfig, images: int, processes: int = 1) -> Self:
        """Plan a training.

        Args:
            recipe: how to train.
            network: the network to train.
            images: number of training images.
            processes: number of processes that share each batch.

        Raises:
            TrainingError: the processes cannot share the batch equally, with two images for each.
        """
        if recipe.batch_size % processes:
            raise TrainingError(_uneven(recipe.batch_size, processes))
        batch_size = min(recipe.batch_size, images // processes * processes)
        if batch_size < 2 * processes:
            raise TrainingError(
                f"a batch of {batch_size} images for {processes} processes, of {images} training "
                "images: expected at least two for each process"
            )
        steps_per_epoch = images // batch_size
        steps = recipe.epochs * steps_per_epoch
        # A fully connected head takes maps of one size.
        low_resolution = recipe.low_resolution if network.head == "gap" else 0.0
        low_resolution_steps = round(low_resolution * steps)
        return cls(
            batch_size,
            steps_per_epoch,
            steps,
            low_resolution_steps=low_resolution_steps,
            whole_image_steps=round(recipe.whole_images * (steps - low_resolution_steps)),
            size=network.size,
        )

    def side(self, step: int) -> int:
        """Side of the images in a step, in pixels."""
        return low_resolution_side(self.size) if step < self.low_resolution_steps else self.size

    @property
    def low_resolution_epochs(self) -> int:
        """Number of epochs that have a step at low resolution."""
        return ceil(self.low_resolution_steps / self.steps_per_epoch)

    def work(self, steps: int, teacher_work: float = 0.0) -> float:
        """Work of the first `steps` steps, in units of a full-resolution step without teachers.

        Args:
            steps: how many steps.
            teacher_work: work of the teachers in each step, in the same unit.
        """
        low = min(steps, self.low_resolution_steps)
        ratio = (low_resolution_side(self.size) / self.size) ** 2
        return steps - low + low * ratio + steps * teacher_work


def low_resolution_side(size: int) -> int:
    """Side of the low-resolution images in pixels: about five eighths, a multiple of 4.

    The multiply-adds of a step fall with its square, to two fifths (progressive resizing, as in
    Howard's DAWNBench entry of 2018).
    """
    return max(SIZES.start, 4 * round(size * 5 / 32))


def _uneven(batch_size: int, processes: int) -> str:
    """The message for a batch that the processes cannot share equally."""
    below = batch_size // processes * processes
    sizes = " or ".join(str(size) for size in (below, below + processes) if size)
    divisor = max(n for n in range(1, processes) if batch_size % n == 0)
    return (
        f"a batch of {batch_size} images for {processes} processes: expected a multiple, so that "
        f"all have the same share, such as {sizes}, or a number of processes that divides it, "
        f"such as {divisor}"
    )

"""Random crop, flip, cutout and CutMix for batches of uint8 images, without a loop over images.

NumPy draws the random numbers and torch applies them on the images' device, so that every device
shows the same images.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def augment(images: Tensor, *, crop: int, shift: Tensor, flip: Tensor | None) -> Tensor:
    """Shift images by up to `crop` pixels on each axis, reflecting their borders, and mirror some.

    Args:
        images: uint8 (N, S, S, C).
        crop: largest shift in pixels, 0 to S - 1.
        shift: rows and columns to shift each image by, plus `crop`: int64 (N, 2), 0 to 2 `crop`.
        flip: which images to mirror left to right, bool (N,); None for none.

    Returns:
        (N, S, S, C), a new tensor.
    """
    count, side, _, channels = images.shape
    axis = torch.arange(side, device=images.device)
    rows, columns = _mirrored(shift.T[:, :, None] + axis - crop, side)  # (N, S) each
    if flip is not None:
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    base = torch.arange(count, device=images.device)[:, None, None] * (side * side)
    sources = base + rows[:, :, None] * side + columns[:, None, :]  # (N, S, S)
    # Selecting whole pixels is several times as fast as indexing with four tensors.
    pixels = images.reshape(-1, channels).index_select(0, sources.flatten())
    return pixels.view(images.shape)


def _mirrored(coordinates: Tensor, side: int) -> Tensor:
    """Coordinates, with those outside 0 to `side` - 1 reflected back into the image."""
    return (side - 1) - ((side - 1) - coordinates.abs()).abs()


def cut_out(images: Tensor, *, side: int, centre: Tensor, fill: Tensor) -> Tensor:
    """Cover a square of each image (cutout, DeVries and Taylor, arXiv:1708.04552).

    Args:
        images: uint8 (N, S, S, C).
        side: side of the square in pixels; it may reach beyond the image.
        centre: row and column of each square's centre, int64 (N, 2), 0 to S - 1.
        fill: colour of the square, uint8 (C,).

    Returns:
        (N, S, S, C), a new tensor.
    """
    square = _squares(images, centre.new_full((len(images),), side), centre)
    return torch.where(square[..., None], fill, images)


def cut_mix(
    images: Tensor, *, side: Tensor, centre: Tensor, partner: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace a square of each image by that of another (CutMix, Yun et al., arXiv:1905.04899).

    Args:
        images: uint8 (N, S, S, C).
        side: side of each square in pixels, int64 (N,); 0 leaves an image as it is.
        centre: row and column of each square's centre, int64 (N, 2), 0 to S - 1.
        partner: index of the image that each square is taken from, int64 (N,).

    Returns:
        The images, (N, S, S, C), and the fraction of each that is still its own, float32 (N,).
    """
    square = _squares(images, side, centre)
    mixed = torch.where(square[..., None], images[partner], images)
    return mixed, 1 - square.float().mean((1, 2))


def _squares(images: Tensor, side: Tensor, centre: Tensor) -> Tensor:
    """Mask of the square with this side and centre in each image: bool (N, S, S)."""
    first = centre - side[:, None] // 2  # (N, 2)
    # (N, 2, S): which rows and which columns are in the square.
    offset = torch.arange(images.shape[1], device=images.device) - first[:, :, None]
    inside = (offset >= 0) & (offset < side[:, None, None])
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def random_sides(
    count: int, size: int, fraction: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Random sides of CutMix's squares; their areas are uniformly distributed.

    Args:
        count: number of images N.
        size: side S of the images in pixels.
        fraction: fraction of the images that get a square; the others' side is 0.
        rng: random generator.

    Returns:
        (N,), 0 to S.
    """
    chosen = rng.random(count) < fraction
    return np.where(chosen, np.round(size * np.sqrt(rng.random(count))), 0).astype(np.int64)


def random_shifts(count: int, crop: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random shifts for `augment`, uniformly distributed.

    Args:
        count: number of images N.
        crop: largest shift in pixels.
        rng: random generator.

    Returns:
        (N, 2), 0 to 2 `crop`.
    """
    return rng.integers(0, 2 * crop + 1, size=(count, 2))


def alternating_flip(first: NDArray[np.bool_], epoch: int) -> NDArray[np.bool_]:
    """Which images to mirror in an epoch: as in the first one, or the opposite in every other.

    So any two successive epochs show each image both ways, which random flips do not (Jordan,
    arXiv:2404.00498, section 3.6).

    Args:
        first: which images are mirrored in epoch 0, (N,).
        epoch: the epoch, counted from 0.

    Returns:
        (N,).
    """
    return first if epoch % 2 == 0 else ~first

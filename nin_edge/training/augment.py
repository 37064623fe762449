"""Random crop, flip, cutout and CutMix for batches of uint8 images, without a loop over images.

What is drawn for an image depends on the seed, the epoch and its place in the epoch alone, so that
a resumed run sees what an uninterrupted one would have seen. It is drawn by NumPy, and done where
the images are, so that it is the same on every device.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def augment(images: Tensor, *, crop: int, shift: Tensor, flip: Tensor | None) -> Tensor:
    """Shift images by up to `crop` pixels on each axis, mirroring borders, and flip those marked.

    Args:
        images: uint8 (N, S, S, C).
        crop: largest shift in pixels, 0 to S - 1; 0 leaves the images in place.
        shift: int64 (N, 2), of rows and of columns, 0 to 2 `crop`; `crop` leaves an image in place.
        flip: bool (N,), which images to mirror left to right; None for none.

    Returns:
        (N, S, S, C), a new tensor.
    """
    count, side, _, channels = images.shape
    place = torch.arange(side, device=images.device)
    rows, columns = _mirrored(shift.T[:, :, None] + place - crop, side)  # (N, S) each
    if flip is not None:
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    base = torch.arange(count, device=images.device)[:, None, None] * (side * side)
    wanted = base + rows[:, :, None] * side + columns[:, None, :]  # (N, S, S)
    # Of whole pixels: several times as fast as indexing with four tensors.
    pixels = images.reshape(-1, channels).index_select(0, wanted.flatten())
    return pixels.view(images.shape)


def _mirrored(places: Tensor, side: int) -> Tensor:
    """Places beyond the first and the last of `side` ones, folded back at these."""
    return (side - 1) - ((side - 1) - places.abs()).abs()


def cut_out(images: Tensor, *, side: int, centre: Tensor, fill: Tensor) -> Tensor:
    """Cover a square of each image (cutout, DeVries and Taylor, arXiv:1708.04552).

    Args:
        images: uint8 (N, S, S, C).
        side: of the square, in pixels; what of it lies outside the image is lost.
        centre: int64 (N, 2), row and column, 0 to S - 1.
        fill: uint8 (C,), the colour it gets.

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
        side: int64 (N,), of each square, in pixels; 0 leaves an image as it is.
        centre: int64 (N, 2), row and column, 0 to S - 1.
        partner: int64 (N,), whose square each image gets.

    Returns:
        (N, S, S, C), a new tensor, and float32 (N,), the part of each image that is still its own.
    """
    square = _squares(images, side, centre)
    mixed = torch.where(square[..., None], images[partner], images)
    return mixed, 1 - square.float().mean((1, 2))


def _squares(images: Tensor, side: Tensor, centre: Tensor) -> Tensor:
    """Which pixels of each image, (N, S, S), lie in a square of that side around that centre."""
    first = centre - side[:, None] // 2  # (N, 2)
    # (N, 2, S): which rows, and which columns, the square takes.
    place = torch.arange(images.shape[1], device=images.device) - first[:, :, None]
    inside = (place >= 0) & (place < side[:, None, None])
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def random_sides(count: int, size: int, part: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sides of CutMix's squares, whose areas are of all sizes alike.

    Args:
        count: N.
        size: S, of the images.
        part: of the images that get one; the others' side is 0.
        rng: draws them.

    Returns:
        (N,), 0 to S.
    """
    chosen = rng.random(count) < part
    return np.where(chosen, np.round(size * np.sqrt(rng.random(count))), 0).astype(np.int64)


def random_shifts(count: int, crop: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Shifts for `augment`, of all sizes alike.

    Args:
        count: N.
        crop: largest shift in pixels.
        rng: draws them.

    Returns:
        (N, 2), 0 to 2 `crop`.
    """
    return rng.integers(0, 2 * crop + 1, size=(count, 2))


def alternating_flip(first: NDArray[np.bool_], epoch: int) -> NDArray[np.bool_]:
    """Which images to mirror in an epoch: random in the first, then each the other way every time.

    So every two epochs show each image in both ways, which random flips do not (Jordan,
    arXiv:2404.00498, section 3.6).

    Args:
        first: (N,), which are mirrored in epoch 0.
        epoch: counted from 0.
    """
    return first if epoch % 2 == 0 else ~first

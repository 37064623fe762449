"""Random shifts, flips, crops, colours, cutout and CutMix for batches of uint8 images, all at once.

NumPy draws the random numbers and torch applies them on the images' device, so that every device
shows the same images.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_ASPECT = 4 / 3  # largest ratio of the sides of a random crop, and of the height to the width
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in ITU-R BT.601, as in Pillow's mode L


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


def resized_crop(images: Tensor, *, boxes: Tensor) -> Tensor:
    """A part of each image, enlarged to the whole side (bilinear).

    Args:
        images: uint8 (N, S, S, C).
        boxes: height, width, and row and column of the centre of each part, float32 (N, 4), as
            fractions of S.

    Returns:
        (N, S, S, C), a new tensor.
    """
    side = images.shape[1]
    height, width, row, column = boxes.T[:, :, None]  # (N, 1) each
    # Coordinates of pixel centres; grid_sample's are -1 to 1 from border to border.
    axis = (torch.arange(side, device=images.device) + 0.5) / side - 0.5
    x, y = (2 * (centre + part * axis) - 1 for part, centre in ((width, column), (height, row)))
    each = (-1, side, side)
    grid = torch.stack([x[:, None, :].expand(each), y[:, :, None].expand(each)], 3)
    values = images.permute(0, 3, 1, 2).contiguous().float()
    parts = functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
    return _to_pixels(parts).permute(0, 2, 3, 1)


def change_colours(images: Tensor, *, factors: Tensor) -> Tensor:
    """Multiply each image's brightness, contrast and saturation.

    Args:
        images: uint8 (N, S, S, C).
        factors: of brightness, contrast (about the image's mean) and saturation (about the luma,
            for C = 3 alone), float32 (N, 3); 1 changes nothing.

    Returns:
        (N, S, S, C), a new tensor.
    """
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    values = images.float()
    mean = values.mean((1, 2, 3), keepdim=True)
    values = values.sub_(mean).mul_(contrast).add_(mean).mul_(brightness)
    if images.shape[-1] == len(_LUMA):
        luma = (values @ values.new_tensor(_LUMA))[..., None]
        values = values.sub_(luma).mul_(saturation).add_(luma)
    return _to_pixels(values)


def _to_pixels(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)


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


def random_boxes(count: int, smallest: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random parts of images for `resized_crop`, of 3:4 to 4:3 (Szegedy et al., 1409.4842).

    Args:
        count: number of images N.
        smallest: smallest area of a part relative to the image's, above 0, at most 1; areas are
            uniformly distributed.
        rng: random generator.

    Returns:
        Height, width, row and column of the centre, (N, 4), as fractions of the image's side.
    """
    area, place = rng.uniform(smallest, 1, count), rng.random((2, count))
    aspect = np.exp(rng.uniform(-1, 1, count) * np.log(_ASPECT))
    sides = np.minimum(1, np.sqrt([area * aspect, area / aspect]))  # (2, N)
    return np.concatenate([sides, sides / 2 + place * (1 - sides)]).T.astype(np.float32)


def random_factors(count: int, largest: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random factors for `change_colours`, uniformly distributed.

    Args:
        count: number of images N.
        largest: largest difference from 1.
        rng: random generator.

    Returns:
        (N, 3), 1 - `largest` to 1 + `largest`.
    """
    return rng.uniform(1 - largest, 1 + largest, (count, 3)).astype(np.float32)


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

"""Random crop, flip and cutout for whole batches of uint8 images, without a loop over images.

What is drawn for an image depends on the seed, the epoch and its place in the epoch alone, so that
a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def augment(
    images: NDArray[np.uint8],
    *,
    crop: int,
    shift: NDArray[np.int64],
    flip: NDArray[np.bool_] | None,
) -> NDArray[np.uint8]:
    """Shift images by up to `crop` pixels on each axis, mirroring borders, and flip those marked.

    Args:
        images: (N, S, S, C).
        crop: largest shift in pixels, 0 to S - 1; 0 leaves the images in place.
        shift: (N, 2), of rows and of columns, 0 to 2 `crop`; `crop` leaves an image in place.
        flip: (N,), which images to mirror left to right; None for none.

    Returns:
        (N, S, S, C), a new array.
    """
    count, side, _, channels = images.shape
    padded = (
        np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode="reflect")
        if crop
        else images
    )
    rows = shift[:, :1] + np.arange(side)  # (N, S)
    columns = shift[:, 1:] + np.arange(side)
    if flip is not None:
        columns = np.where(flip[:, np.newaxis], columns[:, ::-1], columns)
    # A flat gather of whole pixels is several times as fast as indexing with four arrays.
    span = padded.shape[1]
    pixels = padded.reshape(count * span * span, channels)
    base = np.arange(count)[:, np.newaxis, np.newaxis] * (span * span)
    result: NDArray[np.uint8] = pixels[
        base + rows[:, :, np.newaxis] * span + columns[:, np.newaxis, :]
    ]  # (N, S, S, C)
    return result


def cut_out(
    images: NDArray[np.uint8],
    *,
    side: int,
    centre: NDArray[np.int64],
    fill: NDArray[np.uint8],
) -> None:
    """Cover a square of each image, in place (cutout, DeVries and Taylor, arXiv:1708.04552).

    Args:
        images: (N, S, S, C).
        side: of the square, in pixels; what of it lies outside the image is lost.
        centre: (N, 2), row and column, 0 to S - 1.
        fill: (C,), the colour it gets.
    """
    first = centre - side // 2  # (N, 2)
    # (N, 2, S): which rows, and which columns, the square takes.
    place = np.arange(images.shape[1]) - first[:, :, np.newaxis]
    inside = (place >= 0) & (place < side)
    images[inside[:, 0, :, np.newaxis] & inside[:, 1, np.newaxis, :]] = fill


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

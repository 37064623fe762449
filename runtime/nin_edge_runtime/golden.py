"""Golden samples: synthetic images that any machine can draw again, bit for bit, from a seed.

A model file stores the seeds and sizes, and the probabilities that they gave on the exporting
machine. Replaying them on a device shows whether the file still computes the same there, without a
data set or PyTorch.

The images are drawn with integers only, so that no platform's floating point can change a byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMULA: Final = 1
"""Identifies `golden_image`'s formula in a model file; a changed formula needs a new number."""


def golden_image(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Draw the image of a seed: a two-colour gradient with rectangles, ellipses and stripes on it.

    Args:
        seed: 0 to 2**31 - 1.
        height: in pixels, at least 1.
        width: in pixels, at least 1.

    Returns:
        uint8 (height, width, 3).
    """
    state = seed

    def draw(below: int) -> int:
        """Next of Knuth's 64-bit congruential numbers (MMIX): its high half, modulo `below`."""
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % below

    for _ in range(4):  # the first outputs of nearby seeds are alike
        draw(1)
    y = np.arange(height, dtype=np.int64)[:, np.newaxis]
    x = np.arange(width, dtype=np.int64)[np.newaxis, :]
    sky, ground = (np.array([draw(256) for _ in range(3)], dtype=np.int64) for _ in range(2))
    slope = (y * height + x * draw(width + 1)) * 256 // (height * height + width * width)
    image = sky + (ground - sky) * np.clip(slope, 0, 256)[:, :, np.newaxis] // 256
    for _ in range(3 + draw(5)):
        colour = np.array([draw(256) for _ in range(3)], dtype=np.int64)
        center_y, center_x = draw(height), draw(width)
        half_y, half_x = 1 + draw(max(1, height // 3)), 1 + draw(max(1, width // 3))
        shape = draw(3)
        inside = (abs(y - center_y) <= half_y) & (abs(x - center_x) <= half_x)
        if shape == 1:  # an ellipse, in place of the rectangle
            inside = ((y - center_y) * half_x) ** 2 + ((x - center_x) * half_y) ** 2 <= (
                half_y * half_x
            ) ** 2
        elif shape == 2:  # stripes, three bands to the rectangle's height
            inside &= (y - center_y + half_y) * 3 // (2 * half_y + 1) != 1
        image = np.where(inside[:, :, np.newaxis], (image + 3 * colour) // 4, image)
    drawn: NDArray[np.uint8] = image.astype(np.uint8)
    return drawn

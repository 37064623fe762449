"""The formula of golden images draws the same bytes for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from nin_edge_runtime.golden import golden_image


@pytest.mark.parametrize(
    ("seed", "height", "width", "digest"),
    [
        (0, 16, 16, "5595e1ed119e0b35e901572b0b000566130e3011ccbdc08dd84bf75964832fb6"),
        (7, 1, 1, "cf3d3bdf889d70c67c34ad02f9062ae82d6bf6dd3345fe6c5349e4c232cfdf6a"),
        (12345, 48, 80, "a2066b3285b9322109fc31d0b9621448a8e4a212a44ba9de4bb64c01e233f731"),
        (2**31 - 1, 33, 20, "e0ff950dac87c6ab06a50963f280bfd701c302a332960a2cd1e9cf52e834000d"),
    ],
)
def test_the_formula_draws_the_same_bytes_for_ever(
    seed: int, height: int, width: int, digest: str
) -> None:
    image = golden_image(seed, height, width)
    assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
    assert hashlib.sha256(image.tobytes()).hexdigest() == digest


def test_images_of_neighbouring_seeds_differ() -> None:
    assert len({golden_image(seed, 16, 16).tobytes() for seed in range(50)}) == 50

"""How many 32 x 32 images does augmentation crop and flip in a second on one core?

python -m benchmarks.augment
"""

from __future__ import annotations

import os
import statistics
import time

import numpy as np
import torch

from benchmarks.machine import describe
from nin_edge.training.augment import augment, random_shifts

ROUNDS, BATCH = 200, 128


def main() -> None:
    """Measure and print."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    images = torch.randint(0, 256, (BATCH, 32, 32, 3), dtype=torch.uint8)
    print(describe("torch"))
    for crop in (2, 4):
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            shift = torch.from_numpy(random_shifts(BATCH, crop, rng))
            flip = torch.from_numpy(rng.random(BATCH) < 0.5)
            augment(images, crop=crop, shift=shift, flip=flip)
            seconds.append(time.perf_counter() - started)
        print(f"crop {crop}: {BATCH / statistics.median(seconds):,.0f} images/s ({ROUNDS} rounds)")


if __name__ == "__main__":
    main()

"""What the Python runtime gives for images, on this machine and in the emulated Debian.

There, it is a program: `python3 _arm_guest.py MODEL IMAGES.npy OUTPUT.npz`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nin_edge_runtime import Classifier


def predictions(
    model: Path | str, images: Iterable[NDArray[np.uint8]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The probabilities, (N, K), and the labels' class maps, (N, h * w); one image a call."""
    classify = Classifier(model, provider="cpu", threads=1)
    found = [classify(image) for image in images]
    return (
        np.stack([prediction.probabilities for prediction in found]),
        np.stack([prediction.class_map.ravel() for prediction in found]),
    )


if __name__ == "__main__":
    file, sent, output = sys.argv[1:]
    probabilities, maps = predictions(file, np.load(sent))
    np.savez(output, probabilities=probabilities, maps=maps)

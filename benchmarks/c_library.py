"""Does the C library give the Python runtime's predictions?

    python -m benchmarks.c_library DATA

Classifies 100 test images of DATA, the archive that the weights were trained on, and drawn images
of other sizes, with the files of the default weights. Both get the same pixels, one image a call.
It needs CMake and a C compiler.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import _c
from benchmarks._result import Row, answer, parser
from benchmarks.javascript import SIZES, exported, test_images
from nin_edge_runtime import Classifier
from nin_edge_runtime.golden import golden_image


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    options = arguments.parse_args()
    if (reason := _c.missing()) is not None:
        raise SystemExit(f"benchmarks.c_library: {reason}")
    photos = test_images(options.data)
    drawn = [golden_image(seed, *size) for seed, size in enumerate(SIZES)]
    largest = " x ".join(map(str, SIZES[-1]))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in exported(Path(folder)):
            rows.append(compared(name, model, f"{len(photos)} test images", photos))
            rows.append(compared(name, model, f"{len(drawn)} drawn ones, up to {largest}", drawn))
    answer(
        "c_library",
        rows,
        rounds="one call for each image",
        packages=("onnxruntime", "pillow", "numpy"),
        output=options.output,
    )


def compared(precision: str, model: Path, named: str, images: Sequence[NDArray[np.uint8]]) -> Row:
    """The C library against the Python runtime."""
    classify = Classifier(model, provider="cpu", threads=1)
    expected = [classify(image) for image in images]
    probabilities = np.stack([prediction.probabilities for prediction in expected])
    maps = np.stack([prediction.class_map.ravel() for prediction in expected])
    found = _c.classify(model, images)
    return {
        "precision": precision,
        "images": named,
        "count": len(images),
        "equal_labels": int((found.indices == probabilities.argmax(1)).sum()),
        "max_difference": float(np.abs(found.probabilities - probabilities).max()),
        "max_map_difference": float(np.abs(found.maps - maps).max()),
        "max_golden_difference": found.verified,
    }


if __name__ == "__main__":
    main()

"""Does the JavaScript package give the Python runtime's predictions?

    python -m benchmarks.javascript DATA

Classifies 100 test images of DATA, the archive that the weights were trained on, and drawn images
of other sizes, with the files of the default weights: by nin-edge-js in Node, by the page of
`nin-edge web` in Chromium, and by the Python runtime. All get the same pixels, one image a call.
`make js` installs what it needs, but for Chromium.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import _browser, _node
from benchmarks._result import Row, answer, parser
from nin_edge.data import open_dataset
from nin_edge.weights import DEFAULT_WEIGHTS
from nin_edge_runtime import Classifier
from nin_edge_runtime.golden import golden_image

IMAGES: Final = 100
SIZES: Final = ((8, 8), (31, 20), (64, 64), (120, 161), (333, 250), (480, 640), (1500, 2000))
"""(height, width) of the drawn images in pixels."""


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    options = arguments.parse_args()
    if (reason := _browser.missing()) is not None:
        raise SystemExit(f"benchmarks.javascript: {reason}")
    photos = test_images(options.data)
    drawn = [golden_image(seed, *size) for seed, size in enumerate(SIZES)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in exported(Path(folder)):
            rows += compared(name, model, f"{len(photos)} test images", photos)
            largest = " x ".join(map(str, SIZES[-1]))
            rows += compared(name, model, f"{len(drawn)} drawn ones, up to {largest}", drawn)
    used = _node.versions() | _browser.versions()
    versions = ", ".join(f"{name} {version}" for name, version in used.items())
    answer(
        "javascript",
        rows,
        rounds="one call for each image",
        packages=("onnxruntime", "pillow", "numpy"),
        notes=(f"JavaScript: {versions}.",),
        output=options.output,
    )


def test_images(archive: Path) -> list[NDArray[np.uint8]]:
    """100 test images of an archive, uint8 (32, 32, 3)."""
    dataset = open_dataset(archive, size=32)
    tests = dataset.indices("test")
    return [dataset.images[index] for index in tests[:: len(tests) // IMAGES][:IMAGES]]


def exported(folder: Path, weights: Path = DEFAULT_WEIGHTS) -> Iterator[tuple[str, Path]]:
    """The files of weights, by precision."""
    from nin_edge.checkpoint import Checkpoint
    from nin_edge_export import export_models

    for model in export_models(Checkpoint.load(weights)):
        (path := folder / f"{model.info.precision}.onnx").write_bytes(model.data)
        yield model.info.precision, path


def compared(
    precision: str, model: Path, named: str, images: Sequence[NDArray[np.uint8]]
) -> Iterator[Row]:
    """A row for each engine, against the Python runtime."""
    classify = Classifier(model, provider="cpu", threads=1)
    expected = [classify(image) for image in images]
    probabilities = np.stack([prediction.probabilities for prediction in expected])
    maps = np.stack([prediction.class_map.ravel() for prediction in expected])
    labels = [prediction.label for prediction in expected]
    for engine, found in (
        ("Node", _node.classify(model, images)),
        ("Chromium", _browser.classify(model, images)),
    ):
        yield {
            "precision": precision,
            "images": named,
            "count": len(images),
            "engine": engine,
            "equal_labels": sum(map(str.__eq__, labels, found.labels)),
            "max_difference": float(np.abs(found.probabilities - probabilities).max()),
            "max_map_difference": float(np.abs(found.maps - maps).max()),
        }


if __name__ == "__main__":
    main()

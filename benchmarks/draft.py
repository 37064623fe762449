"""What does decoding large JPEGs at a reduced scale save, and what does it do to predictions?

    python -m benchmarks.draft PHOTOS...

PHOTOS are files or folders. Each JPEG is taken as it is; those of at least 640 x 480 are also cut
into tiles of that size and encoded again (quality 90), as a small camera would give them. Figures
are over the JPEGs that are reduced at all.
"""

from __future__ import annotations

import io
import statistics
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks._result import Row, answer, parser
from nin_edge_runtime import Classifier, preprocessing
from nin_edge_runtime.image import find_images, load_image

SCALES: Final = (1, 2, 4, 8)
TILE, MOST_TILES = (640, 480), 12


def tiles_of(path: Path) -> list[bytes]:
    """A photo as it is, and its tiles."""
    encoded = [path.read_bytes()]
    upright = Image.fromarray(np.ascontiguousarray(load_image(path)))
    width, height = TILE
    corners = [
        (left, top)
        for top in range(0, upright.height - height + 1, height)
        for left in range(0, upright.width - width + 1, width)
    ]
    for left, top in corners[:: max(1, len(corners) // MOST_TILES)][:MOST_TILES]:
        buffer = io.BytesIO()
        upright.crop((left, top, left + width, top + height)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


def predict(classify: Classifier, photos: list[bytes]) -> tuple[NDArray[np.float32], list[float]]:
    """Probabilities (N, K), and the milliseconds that each photo took."""
    probabilities, milliseconds = [], []
    for photo in photos:
        started = time.perf_counter()
        probabilities.append(classify(photo).probabilities)
        milliseconds.append(1e3 * (time.perf_counter() - started))
    return np.stack(probabilities), milliseconds


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("photos", nargs="+")
    options = arguments.parse_args()
    files = [
        path for path in find_images(options.photos) if path.suffix.lower() in (".jpg", ".jpeg")
    ]
    photos = [photo for path in files for photo in tiles_of(path)]
    sides = [min(Image.open(io.BytesIO(photo)).size) for photo in photos]
    exact, full_ms = predict(Classifier(provider="cpu", threads=1, draft=False), photos)
    classify = Classifier(provider="cpu", threads=1)
    rows: list[Row] = []
    for scale in SCALES:
        preprocessing.DRAFT_SCALE = scale  # type: ignore[misc]
        least = scale * classify.info.preprocessing.size
        reduced = [index for index, side in enumerate(sides) if side >= 2 * least]
        if not reduced:
            continue
        probabilities, milliseconds = predict(classify, [photos[index] for index in reduced])
        difference = np.abs(probabilities - exact[reduced]).max(axis=1)
        same = probabilities.argmax(axis=1) == exact[reduced].argmax(axis=1)
        median, high = (float(value) for value in np.quantile(difference, (0.5, 0.99)))
        rows.append(
            {
                "scale": scale,
                "reduced": len(reduced),
                "milliseconds": statistics.median(milliseconds),
                "full_milliseconds": statistics.median(full_ms[index] for index in reduced),
                "median_difference": median,
                "p99_difference": high,
                "largest_difference": float(difference.max()),
                "top1_agreement": float(same.mean()),
            }
        )
    answer(
        "draft",
        rows,
        rounds=f"{len(files):,} JPEGs, {len(photos):,} with their tiles, once each",
        packages=("onnxruntime", "pillow"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

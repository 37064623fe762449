"""What does decoding large JPEGs at a reduced scale do to the answers, and what does it save?

    python -m benchmarks.draft PHOTOS...

PHOTOS are files or folders. Each JPEG is taken as it is; those of at least 640 x 480 are also cut
into tiles of that size and encoded again (quality 90), as a small camera would give them.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import describe
from nin_edge_runtime import Classifier, preprocessing
from nin_edge_runtime.image import find_images, load_image

SCALES = (1, 2, 4, 8)
TILE, MOST_TILES = (640, 480), 12


def photos_of(path: Path) -> list[bytes]:
    """A photo as it is, and its tiles."""
    found = [path.read_bytes()]
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
        found.append(buffer.getvalue())
    return found


def _answers(classify: Classifier, photos: list[bytes]) -> tuple[NDArray[np.float32], list[float]]:
    """Probabilities of each photo, and the milliseconds it took."""
    rows, milliseconds = [], []
    for photo in photos:
        started = time.perf_counter()
        rows.append(classify(photo).probabilities)
        milliseconds.append(1e3 * (time.perf_counter() - started))
    return np.stack(rows), milliseconds


def main() -> None:
    """Measure and print."""
    files = [path for path in find_images(sys.argv[1:]) if path.suffix.lower() in (".jpg", ".jpeg")]
    photos = [photo for path in files for photo in photos_of(path)]
    sides = [min(Image.open(io.BytesIO(photo)).size) for photo in photos]
    exact, plain = _answers(Classifier(provider="cpu", threads=1, draft=False), photos)
    classify = Classifier(provider="cpu", threads=1)
    print(describe("onnxruntime", "pillow"))
    print(f"{len(files)} files, {len(photos):,} photos with their tiles")
    print("differences of probabilities, over the photos that are reduced")
    print(
        f"{'scale':>12} {'reduced':>8} {'median ms':>10} {'exactly':>10} {'median':>8} {'99%':>8} "
        f"{'largest':>8} {'same top-1':>10}"
    )
    for scale in SCALES:
        preprocessing.DRAFT_SCALE = scale  # type: ignore[misc]
        enough = scale * classify.info.preprocessing.size
        reduced = [place for place, side in enumerate(sides) if side >= 2 * enough]
        found, milliseconds = _answers(classify, [photos[place] for place in reduced])
        difference = np.abs(found - exact[reduced]).max(axis=1)
        same = (found.argmax(axis=1) == exact[reduced].argmax(axis=1)).mean()
        low, high = np.quantile(difference, (0.5, 0.99))
        print(
            f"{f'at least {scale} S':>12} {len(reduced):8,} "
            f"{statistics.median(milliseconds):10.3f} "
            f"{statistics.median(plain[place] for place in reduced):10.3f} {low:8.4f} {high:8.4f} "
            f"{difference.max():8.4f} {same:10.2%}"
        )


if __name__ == "__main__":
    main()

"""How much faster is a folder of photos through `stream` than one photo at a time?

    python -m benchmarks.folder PHOTOS...

PHOTOS are files or folders; 2,000 tiles of 640 x 480 pixels are cut from them (JPEG, quality 90).
The loop uses one thread, the stream two decoding ones beside the network's.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path

from benchmarks.draft import photos_of
from benchmarks.machine import describe, interleave, report, timed
from nin_edge_runtime import Classifier, ImageError
from nin_edge_runtime.image import find_images

COUNT, ROUNDS, WORKERS = 2000, 5, 2


def main() -> None:
    """Measure and print."""
    one, two = (Classifier(provider="cpu", threads=threads) for threads in (1, WORKERS))
    with tempfile.TemporaryDirectory() as folder:
        tiles = (tile for path in find_images(sys.argv[1:]) for tile in photos_of(path)[1:])
        for index, tile in enumerate(islice(tiles, COUNT)):
            (Path(folder) / f"{index:05}.jpg").write_bytes(tile)
        paths = find_images([folder])
        answers = [one(path).label for path in paths]
        for classify, batch_size in ((two, 1), (one, 1), (one, 8)):
            streamed = classify.stream(paths, workers=WORKERS, batch_size=batch_size)
            assert answers == [
                answer.label for answer in streamed if not isinstance(answer, ImageError)
            ]
        candidates = {
            "one at a time, 1 thread": timed(lambda: [one(path) for path in paths]),
            "stream, network 2 threads": timed(lambda: list(two.stream(paths, workers=WORKERS))),
            "stream, network 1 thread": timed(lambda: list(one.stream(paths, workers=WORKERS))),
            "the same, batches of 8": timed(
                lambda: list(one.stream(paths, workers=WORKERS, batch_size=8))
            ),
        }
        print(describe("onnxruntime", "pillow"), f"{len(paths):,} photos")
        report(interleave(candidates, ROUNDS), unit=1, name="s")


if __name__ == "__main__":
    main()

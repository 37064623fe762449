"""How long does a data set take to open, decoded afresh and from the cache?

python -m benchmarks.datasets cifar10-jpeg.tar.xz
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe
from nin_edge.datasets import open_dataset


def main() -> None:
    """Measure and print."""
    print(describe("numpy", "pillow"))
    with tempfile.TemporaryDirectory() as folder:
        for what in ("decoded", "from the cache"):
            started = time.perf_counter()
            data = open_dataset(Path(sys.argv[1]), size=32, cache=Path(folder))
            print(f"{what}: {len(data.images):,} images, {time.perf_counter() - started:.2f} s")
            del data


if __name__ == "__main__":
    main()

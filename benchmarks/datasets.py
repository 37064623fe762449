"""How long does a data set take to open, and does one larger than memory still train?

    python -m benchmarks.datasets cifar10-jpeg.tar.xz
    python -m benchmarks.datasets --beyond-memory [MiB, 768 if not given]

The first opens a data set afresh and from the cache. The second makes photos whose cache is twice
as large as the memory that the process may still allocate once torch is imported, opens them, and
trains a thin network on them for an epoch. The limit is RLIMIT_DATA: it counts what the process
allocates, but not the mapped cache, whose pages the kernel takes back when memory is short
(RLIMIT_AS would count the mapping as if it were memory).
"""

from __future__ import annotations

import io
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import describe, run_step
from nin_edge.data import Dataset, open_dataset

SIZE = 64  # side of the photos, in pixels
MIB = 1 << 20


def opening(path: Path) -> None:
    """Measure and print how long a data set takes to open."""
    print(describe("numpy", "pillow"))
    with tempfile.TemporaryDirectory() as folder:
        for what in ("decoded", "from the cache"):
            started = time.perf_counter()
            data = open_dataset(path, size=32, cache=Path(folder))
            print(f"{what}: {len(data.images):,} images, {time.perf_counter() - started:.2f} s")
            del data


def beyond_memory(headroom: int) -> None:
    """Make the photos and train on them in a process of its own."""
    print(describe("numpy", "pillow", "torch"))
    count = 2 * headroom * MIB // (SIZE * SIZE * 3)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(folder) / "photos.zip", "w") as archive:
            for index in range(count):
                coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                coarse[..., index % 2] //= 2  # what there is to learn
                photo = Image.fromarray(coarse).resize((80, SIZE), Image.Resampling.BILINEAR)
                encoded = io.BytesIO()
                photo.save(encoded, "JPEG", quality=75)
                archive.writestr(f"{'ab'[index % 2]}/{index:06}.jpg", encoded.getvalue())
        run_step("benchmarks.datasets", folder, headroom)


def limited(folder: Path, headroom: int) -> None:
    """Open and train under the limit, and print what it took."""
    from nin_edge.checkpoint import DataSource
    from nin_edge.network import NetworkConfig
    from nin_edge.training.loop import train
    from nin_edge.training.recipe import Recipe

    one_epoch = Recipe(epochs=1, batch_size=32)
    config = NetworkConfig.from_preset("nin-bn", classes=2, width=1 / 32, size=SIZE)
    start = _allocated()
    limit = start + headroom * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    started = time.perf_counter()
    data: Dataset = open_dataset(folder / "photos.zip", size=SIZE, cache=folder / "cache")
    opened = time.perf_counter()
    best = train(data, config, one_epoch, DataSource("photos", "made"), folder / "run")
    trained = time.perf_counter()
    print(
        f"cache {data.images.nbytes / MIB:,.0f} MiB of {len(data.images):,} photos; the process "
        f"held {start / MIB:,.0f} MiB and could allocate {headroom:,} more\n"
        f"opened in {opened - started:.1f} s, one epoch in {trained - opened:.1f} s, hold-out "
        f"{best.metrics['holdout_top1']:.2%}, {_allocated() / MIB:,.0f} MiB held at the end"
    )


def _allocated() -> int:
    """Bytes that RLIMIT_DATA counts of this process."""
    return int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024


def main() -> None:
    """Measure and print."""
    first, *rest = sys.argv[1:] or [""]
    if first == "--step":
        limited(Path(rest[0]), int(rest[1]))
    elif first == "--beyond-memory":
        beyond_memory(int(rest[0]) if rest else 768)
    elif first:
        opening(Path(first))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

"""Does a data set that is larger than memory still open and train?

    python -m benchmarks.larger_than_memory [--headroom MIB]

Makes photos whose cache is twice as large as the memory that the process may still allocate once
torch is imported, opens them, and trains a thin network on them for an epoch. The limit is
RLIMIT_DATA: it counts what the process allocates, but not the mapped cache, whose pages the kernel
takes back when memory is short (RLIMIT_AS would count the mapping as if it were memory).
"""

from __future__ import annotations

import io
import json
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks._measure import run_step
from benchmarks._result import Row, answer, parser

SIZE: Final = 64  # side of the photos, in pixels
MIB: Final = 1 << 20


def make_photos(path: Path, count: int) -> None:
    """Write a zip of two classes of random photos that differ in colour."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            coarse[..., index % 2] //= 2  # what there is to learn
            photo = Image.fromarray(coarse).resize((80, SIZE), Image.Resampling.BILINEAR)
            encoded = io.BytesIO()
            photo.save(encoded, "JPEG", quality=75)
            archive.writestr(f"{'ab'[index % 2]}/{index:06}.jpg", encoded.getvalue())


def train_limited(folder: Path, headroom: int) -> Row:
    """Open and train under the limit, and measure that."""
    from nin_edge.checkpoint import DataSource
    from nin_edge.data import open_dataset
    from nin_edge.network import NetworkConfig
    from nin_edge.training.loop import train
    from nin_edge.training.recipe import Recipe

    recipe = Recipe(epochs=1, batch_size=32)
    config = NetworkConfig.from_preset("nin-bn", classes=2, width=1 / 32, size=SIZE)
    limit = _allocated() + headroom * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    started = time.perf_counter()
    data = open_dataset(folder / "photos.zip", size=SIZE, cache=folder / "cache")
    opened = time.perf_counter()
    train(data, config, recipe, DataSource("photos", "made"), folder / "run")
    return {
        "photos": len(data.images),
        "cache_mib": data.images.nbytes / MIB,
        "headroom_mib": headroom,
        "open_seconds": opened - started,
        "epoch_seconds": time.perf_counter() - opened,
    }


def _allocated() -> int:
    """Bytes of this process that RLIMIT_DATA counts."""
    return int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024


def main() -> None:
    """Make the photos, train on them in a process of its own, and write."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--headroom", type=int, default=384, metavar="MIB", help="384 if not given"
    )
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = 2 * options.headroom * MIB // (SIZE * SIZE * 3)
        make_photos(Path(folder) / "photos.zip", count)
        row = run_step("benchmarks.larger_than_memory", folder, options.headroom)
    answer(
        "larger_than_memory",
        [row],
        rounds="one run",
        packages=("torch", "numpy", "pillow"),
        output=options.output,
    )


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    else:
        print(json.dumps(train_limited(Path(sys.argv[2]), int(sys.argv[3]))))

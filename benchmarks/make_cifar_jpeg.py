"""Make the archive that the weights were trained on from the official CIFAR-10 binary archive.

    python -m benchmarks.make_cifar_jpeg cifar-10-binary.tar.gz cifar10-jpeg.tar.xz

Each image becomes a JPEG of quality 75 in `train/<class>/` or `test/<class>/`. The lossy step is
deliberate: figures from it say "CIFAR-10 (JPEG q75)".
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
ROW = 1 + 3 * 32 * 32  # a label and three planes of 32 x 32 bytes
FILES = {
    **{f"data_batch_{number}.bin": "train" for number in range(1, 6)},
    "test_batch.bin": "test",
}


def main() -> None:
    """Convert the archive named first to the one named second."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(Path, sys.argv[1:])
    counts: dict[str, int] = {}
    with tarfile.open(source) as official, tarfile.open(target, "w:xz") as archive:
        for member in official:
            split = FILES.get(Path(member.name).name)
            file = official.extractfile(member) if split else None
            if file is None:
                continue
            for row in np.frombuffer(file.read(), np.uint8).reshape(-1, ROW):
                folder = f"{split}/{LABELS[row[0]]}"
                counts[folder] = counts.get(folder, -1) + 1
                encoded = io.BytesIO()
                image = Image.fromarray(row[1:].reshape(3, 32, 32).transpose(1, 2, 0))
                image.save(encoded, "JPEG", quality=75)
                info = tarfile.TarInfo(f"{folder}/{counts[folder]:04}.jpg")
                info.size = encoded.tell()
                encoded.seek(0)
                archive.addfile(info, encoded)
    print({folder: last + 1 for folder, last in counts.items()})


if __name__ == "__main__":
    main()

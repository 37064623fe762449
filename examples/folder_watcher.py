"""Label the images that appear in a folder: one line of JSON for each, until Ctrl-C.

    python folder_watcher.py photos/ --model model.onnx

An unreadable image is tried again, because it may be half-written. A replaced image is labelled
again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from nin_edge_runtime import Classifier, ImageError, NinEdgeError
from nin_edge_runtime.image import IMAGE_SUFFIXES


def versions(paths: Iterable[Path]) -> list[tuple[Path, int, int]]:
    """The images among paths, each with its size and time, which change when it is written."""
    images = []
    for path in sorted(paths):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            with suppress(FileNotFoundError):  # deleted in the meantime
                images.append((path, path.stat().st_size, path.stat().st_mtime_ns))
    return images


def main() -> None:
    """Scan the folder again and again, and print a line for each new image."""
    parser = argparse.ArgumentParser(description="Label the images that appear in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="an .onnx file (the default model)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two scans (1)")
    parser.add_argument("--tries", type=int, default=5, help="tries of an unreadable image (5)")
    parser.add_argument("--once", action="store_true", help="label the present images, and stop")
    options = parser.parse_args()
    tries = 1 if options.once else options.tries
    classify = Classifier(options.model)
    tries_left: dict[tuple[Path, int, int], int] = {}  # by image, as it is now
    while True:
        images = versions(options.folder.iterdir())
        tries_left = {image: tries_left.get(image, tries) for image in images}
        for image in images:
            if tries_left[image] < 1:
                continue
            path = image[0]
            line: dict[str, object] = {"image": str(path)}
            try:
                prediction = classify(path)
                line |= {"label": prediction.label, "score": round(prediction.score, 4)}
                tries_left[image] = 0
            except ImageError as error:
                line |= {"error": str(error)}
                tries_left[image] -= 1
            # An image that was written in the meantime is labelled at the next scan.
            unchanged = options.once or image in versions([path])
            if not tries_left[image] and unchanged:
                print(json.dumps(line), flush=True)
        if options.once:
            break
        time.sleep(options.every)


if __name__ == "__main__":
    try:
        main()
    except (NinEdgeError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

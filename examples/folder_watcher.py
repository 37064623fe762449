"""Label the images that appear in a folder: one line of JSON for each, until Ctrl-C.

    python folder_watcher.py photos/ --model model.onnx

An image that cannot be read is tried again, for it may be half-written. One that is replaced is
labelled again.
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


def look(paths: Iterable[Path]) -> list[tuple[Path, int, int]]:
    """The images of them, each with its size and time, which change when it is written to."""
    found = []
    for path in sorted(paths):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            with suppress(FileNotFoundError):  # removed meanwhile
                found.append((path, path.stat().st_size, path.stat().st_mtime_ns))
    return found


def main() -> None:
    """Look again and again, and print what is new."""
    parser = argparse.ArgumentParser(description="Label the images that appear in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="an .onnx file; the default model without it")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks (1)")
    parser.add_argument("--tries", type=int, default=5, help="looks at an unreadable image (5)")
    parser.add_argument("--once", action="store_true", help="label what is there, and stop")
    options = parser.parse_args()
    tries = 1 if options.once else options.tries
    classify = Classifier(options.model)
    left: dict[tuple[Path, int, int], int] = {}  # tries, of each image as it is now
    while True:
        left = {image: left.get(image, tries) for image in look(options.folder.iterdir())}
        for image in left:
            if left[image] < 1:
                continue
            path = image[0]
            answer: dict[str, object] = {"image": str(path)}
            try:
                prediction = classify(path)
                answer |= {"label": prediction.label, "score": round(prediction.score, 4)}
                left[image] = 0
            except ImageError as error:
                answer |= {"error": str(error)}
                left[image] -= 1
            unchanged = options.once or image in look([path])  # else at the next look
            if not left[image] and unchanged:
                print(json.dumps(answer), flush=True)
        if options.once:
            break
        time.sleep(options.every)


if __name__ == "__main__":
    try:
        main()
    except (NinEdgeError, OSError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)

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
from contextlib import suppress
from pathlib import Path

from nin_edge_runtime import Classifier, ImageError, NinEdgeError
from nin_edge_runtime.image import IMAGE_SUFFIXES


def look(folder: Path) -> dict[Path, tuple[int, int]]:
    """The images in a folder, each with its size and time: they change when it is written to."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            with suppress(FileNotFoundError):  # removed meanwhile
                found[path] = path.stat().st_size, path.stat().st_mtime_ns
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
    seen: dict[Path, tuple[tuple[int, int], int]] = {}  # state of an image, tries that are left
    while True:
        images = look(options.folder)
        seen = {path: seen.get(path, (state, tries)) for path, state in images.items()}
        for path, state in images.items():
            known, left = seen[path]
            left = left if known == state else tries
            if left < 1:
                continue
            answer: dict[str, object] = {"image": str(path)}
            try:
                prediction = classify(path)
                answer |= {"label": prediction.label, "score": round(prediction.score, 4)}
                left = 0
            except ImageError as error:
                answer |= {"error": str(error)}
                left -= 1
            seen[path] = state, left
            if not left:
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

"""Label the frames of a camera or a video: a line whenever the label changes, until Ctrl-C.

    python camera_loop.py                        the first camera
    python camera_loop.py clip.mp4 --every 10    every tenth frame of a video

It needs OpenCV: pip install opencv-python-headless
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing

from nin_edge_runtime import Classifier, NinEdgeError
from nin_edge_runtime.video import frames


def main() -> None:
    """Label frame by frame, and print each change."""
    parser = argparse.ArgumentParser(description="Label the frames of a camera or a video.")
    parser.add_argument(
        "source", nargs="?", default="0", help="a camera's index, a video file or a URL (0)"
    )
    parser.add_argument("--model", help="an .onnx file (the default model)")
    parser.add_argument("--every", type=int, default=1, help="take every N-th frame (1)")
    parser.add_argument(
        "--min-score", type=float, help="probability below which a label is unknown"
    )
    options = parser.parse_args()
    classify = Classifier(options.model, min_score=options.min_score)
    shown, count, start = None, 0, time.monotonic()
    try:
        with closing(frames(options.source, every=options.every)) as source:
            for frame in source:
                prediction = classify(frame.pixels, bgr=True)
                count += 1
                label = "unknown" if prediction.unknown else prediction.label
                if label != shown:
                    shown, rate = label, count / (time.monotonic() - start)
                    print(
                        f"{frame.seconds:8.2f} s  {label:<16} {prediction.score:6.1%}"
                        f"  {rate:6.1f} frames/s",
                        flush=True,
                    )
    finally:  # also after Ctrl-C, and when the camera is unplugged
        if count:
            rate = count / (time.monotonic() - start)
            print(f"{count} frames, {rate:.1f} frames/s", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (NinEdgeError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

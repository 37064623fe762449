"""nin-edge-js in Node: what it gives for images, to be compared with the Python runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks._result import ROOT

PACKAGE: Final = ROOT / "runtime" / "js"
"""The JavaScript package."""

OLDEST: Final = 18
"""Oldest release of Node that it runs on."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What Node gave for some images."""

    probabilities: NDArray[np.float32]
    """(N, K)."""
    maps: NDArray[np.float32]
    """(N, h * w), the class map of each image's label."""
    labels: tuple[str, ...]
    """Each image's label."""
    verified: float
    """Largest difference over the golden samples."""


def missing() -> str | None:
    """Why nothing can be run in Node here; None where it can."""
    node = shutil.which("node")
    if node is None:
        return "Node is not installed"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    release = version.stdout.strip().removeprefix("v").partition(".")[0]
    if not release.isdigit() or int(release) < OLDEST:
        return f"Node {OLDEST} or newer is needed, found {version.stdout.strip() or node}"
    if not (PACKAGE / "node_modules" / "onnxruntime-node").is_dir():
        return "the packages for Node are not installed: make js"
    return None


def versions() -> dict[str, str]:
    """Releases of Node and of its ONNX Runtime."""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    package = PACKAGE / "node_modules" / "onnxruntime-node" / "package.json"
    return {
        "node": node.stdout.strip().removeprefix("v"),
        "onnxruntime-node": json.loads(package.read_text("utf-8"))["version"],
    }


def classify(model: Path, images: Sequence[NDArray[np.uint8]]) -> Outputs:
    """Classify images in one process of Node.

    Args:
        model: an `.onnx` file.
        images: RGB or RGBA, uint8 (H, W, 3) or (H, W, 4).
    """
    described = [
        {"width": image.shape[1], "height": image.shape[0], "bytes": image.size} for image in images
    ]
    order = json.dumps({"model": str(model.absolute()), "images": described})
    done = subprocess.run(
        ["node", "test/classify.js"],
        cwd=PACKAGE,
        input=order.encode() + b"\n" + b"".join(image.tobytes() for image in images),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"node test/classify.js: {done.stderr.decode(errors='replace')}")
    output = json.loads(done.stdout)
    return Outputs(
        probabilities=np.array(output["probabilities"], np.float32),
        maps=np.array(output["maps"], np.float32),
        labels=tuple(output["labels"]),
        verified=output["verified"],
    )

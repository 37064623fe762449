"""The page of `nin-edge web` in Chromium, driven by the scripts of `runtime/js/chromium`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import _node
from nin_edge.web import write_page

ONNXRUNTIME_WEB: Final = _node.PACKAGE / "node_modules" / "onnxruntime-web"
"""ONNX Runtime Web, as npm installed it."""

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_SECONDS: Final = 300.0


@dataclass(frozen=True, eq=False)
class Answers:
    """What the page gave for some images."""

    probabilities: NDArray[np.float32]
    """(N, K)."""
    maps: NDArray[np.float32]
    """(N, h * w), the class map of each image's label."""
    labels: tuple[str, ...]
    """Each image's label."""


def chromium() -> str | None:
    """The browser: the variable CHROMIUM, or the first on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


def missing() -> str | None:
    """Why the page cannot be run in a browser here; None where it can."""
    if chromium() is None:
        return "Chromium is not installed; CHROMIUM names its program"
    return _node.missing()


def versions() -> dict[str, str]:
    """Releases of Chromium and of ONNX Runtime Web."""
    shown = subprocess.run(
        [chromium() or "", "--version"], capture_output=True, text=True, check=True
    )
    package = json.loads((ONNXRUNTIME_WEB / "package.json").read_text("utf-8"))
    return {"Chromium": shown.stdout.split()[1], "onnxruntime-web": package["version"]}


def classify(model: Path, images: Sequence[NDArray[np.uint8]]) -> Answers:
    """Classify images on the page, which gets them as PNG.

    Args:
        model: an `.onnx` file.
        images: RGB, uint8 (H, W, 3).
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{index}.png" for index in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        write_page(model, folder / "site", onnxruntime_web=ONNXRUNTIME_WEB)
        task = {"site": str(folder / "site"), "images": list(map(str, paths)), "rounds": 1}
        answers = run("classify.js", task, folder)["answers"]
    return Answers(
        probabilities=np.array([one["probabilities"] for one in answers], np.float32),
        maps=np.array([one["map"] for one in answers], np.float32),
        labels=tuple(one["label"] for one in answers),
    )


def run(script: str, task: dict[str, Any], folder: Path) -> Any:
    """Run a script of `runtime/js/chromium`.

    Args:
        script: its file name.
        task: what it is to do.
        folder: where the task is written.

    Returns:
        What it printed as JSON.
    """
    file = folder / "task.json"
    file.write_text(json.dumps(task), "utf-8")
    done = subprocess.run(
        ["node", f"chromium/{script}", file.absolute()],
        cwd=_node.PACKAGE,
        env=os.environ | {"CHROMIUM": chromium() or ""},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr}")
    return json.loads(done.stdout)

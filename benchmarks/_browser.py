"""The page of `nin-edge web` in Chromium, driven by the scripts of `runtime/js/chromium`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from benchmarks import _node

ONNXRUNTIME_WEB: Final = _node.PACKAGE / "node_modules" / "onnxruntime-web"
"""ONNX Runtime Web, as npm installed it."""

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_SECONDS: Final = 300.0


def chromium() -> str | None:
    """The browser: the variable CHROMIUM, or the first on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


def missing() -> str | None:
    """Why the page cannot be run in a browser here; None where it can."""
    if chromium() is None:
        return "Chromium is not installed; CHROMIUM names its program"
    return _node.missing()


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

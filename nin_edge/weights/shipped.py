"""The weights that ship with the toolkit, by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

WEIGHTS: Final = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}
"""Checkpoint files by name, as `nin_edge.train(init=...)`, `export` and `evaluate` take it."""

DEFAULT_WEIGHTS: Final = WEIGHTS["nin-cifar10"]
"""The weights of the runtime's default model; what `nin-edge export` exports by default."""

PHOTO_WEIGHTS: Final = "nin-photo"
"""Name of the weights that training on photos starts from."""


def find_weights(name: str | os.PathLike[str]) -> Path:
    """The checkpoint file for a path or a name of `WEIGHTS`; an existing file takes precedence.

    Raises:
        ModelFileError: neither a file nor a known name; the message lists the names.
    """
    path = Path(name)
    if path.exists():
        return path
    if str(path) in WEIGHTS:
        return WEIGHTS[str(path)]
    from nin_edge_runtime.errors import ModelFileError

    raise ModelFileError(
        f"{path}: no such file, expected a checkpoint (.safetensors) or one of {', '.join(WEIGHTS)}"
    )

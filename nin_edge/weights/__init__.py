"""The weights that ship with the toolkit, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

WEIGHTS: Final = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}
"""Checkpoint files by the name that `--init`, `nin-edge export` and `nin-edge eval` take."""

DEFAULT_WEIGHTS: Final = WEIGHTS["nin-cifar10"]
"""What `nin-edge export` exports when nothing is named, and the runtime's default model is of."""


def find_weights(name: Path) -> Path:
    """The file that a path or a name of `WEIGHTS` means; a file of that name comes first.

    Raises:
        ModelFileError: neither; the message lists the names.
    """
    if name.exists():
        return name
    if str(name) in WEIGHTS:
        return WEIGHTS[str(name)]
    from nin_edge_runtime.errors import ModelFileError

    raise ModelFileError(
        f"{name}: no such file, expected a checkpoint (.safetensors) or one of {', '.join(WEIGHTS)}"
    )

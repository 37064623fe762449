from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nin_edge.checkpoint import Checkpoint
from nin_edge.training import setup
from nin_edge.training.errors import TrainingError
from nin_edge.training.recipe import Recipe
from nin_edge.training.setup import Machine

Train = Callable[..., Checkpoint]


def test_not_all_blocks_can_be_frozen(train_tiny: Train, short: Recipe, tmp_path: Path) -> None:
    recipe = replace(short, frozen_blocks=3)
    with pytest.raises(TrainingError, match=r"frozen_blocks is 3: expected fewer than .* 3 blocks"):
        train_tiny(tmp_path / "run", recipe=recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("installed", "device", "message"),
    [
        ("triton gcc", "cpu", "compiling for the CPU: expected one process on a GPU"),
        ("gcc", "cuda", "compiling needs Triton, which is not installed"),
        ("triton", "cuda", "compiling needs a C compiler: expected gcc or clang"),
        ("triton gcc", "cuda with CC", "compiling needs a C compiler: .* or CC to name one"),
    ],
)
def test_compiling_where_it_cannot_work_is_refused(
    train_tiny: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: str,
    device: str,
    message: str,
) -> None:
    monkeypatch.setattr(setup, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr("shutil.which", lambda name: name if name in installed else None)
    device, _, named = device.partition(" with ")
    monkeypatch.setenv("CC", "missing-cc" if named else "")
    machine = Machine(device=torch.device(device), compiled=True)
    with pytest.raises(TrainingError, match=message):
        train_tiny(tmp_path / "run", machine=machine)
    assert not (tmp_path / "run").exists()

"""`cd photos; nin-edge train .`: the run lies among its own data, and is never read as data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nin_edge import api
from nin_edge.cli import main
from nin_edge.training.errors import TrainingStoppedError
from nin_edge.training.run_folder import RunFolder


def test_a_run_among_its_data_is_no_data(
    make_folder: Callable[..., Path],
    tmp_path: Path,
    encoded: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = make_folder(tmp_path / "photos", {"circle": 12, "square": 12})

    def draw(run: RunFolder, *_: object, **__: object) -> None:
        run.curves.write_bytes(encoded)

    monkeypatch.setattr(RunFolder, "draw", draw)
    monkeypatch.chdir(photos)
    settings = {"epochs": 2, "size": 16, "width": 0.01, "batch_size": 8, "device": "cpu"}
    with pytest.raises(TrainingStoppedError):
        api.train(".", should_stop=lambda: True, **settings)
    resumed = CliRunner().invoke(main, ["train", ".", "--device", "cpu", "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert "passed over 1 folder that nin-edge wrote" in resumed.stderr
    assert (photos / "runs" / "photos" / "curves.png").exists()
    options = ("--split", "all", "--plot", "circle/plot.png")
    evaluated = CliRunner().invoke(main, ["eval", "runs/photos/best.safetensors", ".", *options])
    assert evaluated.exit_code == 0, evaluated.output
    assert "24 images of photos" in evaluated.stdout
    monkeypatch.chdir(photos / "circle")  # a run among the images of a class
    second = api.train("..", "second", **settings | {"epochs": 1})
    first = RunFolder(photos / "runs" / "photos").read_config()
    assert (photos / "circle" / "plot.png").exists()
    again = RunFolder(second.folder).read_config()
    assert again.data.fingerprint == first.data.fingerprint
    assert again.labels == ("circle", "square")

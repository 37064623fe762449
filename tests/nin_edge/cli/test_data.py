from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge.cli._data import KINDS
from nin_edge.data import datasets, download

TINY = (
    "--size",
    "28",
    "--width",
    "0.01",
    "--set",
    "batch_size=16",
    "--device",
    "cpu",
    "--epochs",
    "1",
)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    """Idx files of 200 training and 20 test images, of which one is a training image."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "clothes"
    folder.mkdir()
    images = rng.integers(0, 256, (220, 28, 28), dtype=np.uint8)
    images[205] = images[7]
    for split, part in (("train", slice(0, 200)), ("t10k", slice(200, 220))):
        for what, values in (("images", images[part]), ("labels", np.arange(220)[part] % 10)):
            shape = b"".join(side.to_bytes(4, "big") for side in values.shape)
            data = bytes([0, 0, 8, values.ndim]) + shape + values.astype(np.uint8).tobytes()
            name = f"{split}-{what}-idx{values.ndim}-ubyte.gz"
            (folder / name).write_bytes(gzip.compress(data))
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_an_official_archive_trains_and_is_scored(
    clothes: Path, tmp_path: Path, channels: int
) -> None:
    run, kind = tmp_path / "run", ("--dataset", "fashion-mnist")
    trained = invoke("train", clothes, *kind, *TINY, "--set", f"channels={channels}", "-o", run)
    assert trained.exit_code == 0, trained.output
    assert "clothes: Fashion-MNIST, 10 classes, 180 images to fit, 20 held out, 20 to te" in (
        trained.stderr
    )
    checkpoint = Checkpoint.load(run / "best.safetensors")
    assert checkpoint.labels[:2] == ("T-shirt/top", "Trouser")
    assert checkpoint.preprocessing.channels == channels
    scored = invoke("eval", run / "best.safetensors", clothes, *kind, "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["images"] == 20
    unforced = invoke("eval", run / "best.safetensors", clothes)
    assert unforced.exit_code == 1
    assert "its labels are not the model's" in unforced.stderr


def test_duplicates_are_counted_and_warned_about(clothes: Path, tmp_path: Path) -> None:
    result = invoke("train", clothes, *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    (line,) = re.findall(r"^warning: .*$", result.stderr, re.MULTILINE)
    assert line == (
        "warning: 1 of 20 test images are also training images, pixel for pixel, which flatters "
        "the test score (test/00005 = train/00007)"
    )


def test_few_of_many_duplicates_are_named(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    folder = make_folder(tmp_path / "data", {"train/a": 8, "train/b": 8, "test/a": 1, "test/b": 1})
    for index in range(5):
        with Image.open(folder / "train" / "a" / f"{index:03}.png") as image:
            image.save(folder / "test" / "b" / f"copy {index}.png")
    result = invoke("train", folder, *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "warning: 5 of 7 test images are also training images" in result.stderr
    assert result.stderr.count(" = train/a/") == 3
    assert "copy 2.png = train/a/002.png, ...)" in result.stderr


def test_what_is_not_the_forced_kind_is_one_error(clothes: Path, tmp_path: Path) -> None:
    result = invoke("train", clothes, "--dataset", "cifar10", *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith(f"Error: {clothes}: not CIFAR-10, expected the files data_batch_1.bin")
    assert not (tmp_path / "run").exists()
    unknown = invoke("train", clothes, "--dataset", "imagenet")
    assert unknown.exit_code == 2
    assert "'imagenet' is not one of" in unknown.stderr


def test_a_foreign_object_in_a_pickle_is_one_error(tmp_path: Path) -> None:
    names = [f"data_batch_{number}" for number in range(1, 6)]
    for name in (*names, "test_batch", "batches.meta"):
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'echo ran'\ntR.")
    result = invoke("train", tmp_path, *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 1
    assert "names the foreign object 'os.system'; refused" in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_is_fetched_without_the_flag(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "download", lambda files, folder, **_: asked.append(folder))
    result = invoke("train", "mnist", *TINY)
    assert result.exit_code == 1
    assert "mnist: no such file or folder, and MNIST is not in" in result.stderr
    assert not asked
    invoke("train", "mnist", "--download", *TINY)
    invoke("eval", "m.safetensors", "mnist", "--download")  # no model: it fails before
    invoke("train", "new", "--dataset", "cifar10", "--download", *TINY)
    assert asked == [private_cache / "downloads" / "mnist", Path("new")]


def test_what_to_fetch_has_to_be_said(tmp_path: Path) -> None:
    result = invoke("train", tmp_path / "new", "--download", *TINY)
    assert result.exit_code == 1
    assert "what to download is not said, expected one of cifar10, cifar100, mnist, " in (
        result.stderr
    )


def test_the_options_name_what_the_library_knows() -> None:
    assert KINDS == datasets.KINDS

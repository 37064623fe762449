"""What the verbs say of a data set, and the options by which they are told what it is."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import _data, main
from nin_edge.cli._data import DATASETS, describe, show_progress
from nin_edge.data import FOLDER, OFFICIAL, Dataset, download, locate, location, open_dataset

TINY = (
    *("--size", "28", "--width", "0.01", "--set", "batch_size=16"),
    *("--device", "cpu", "--epochs", "1"),
)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    """Idx files of 80 training and 20 test images, of which one is a training image."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "clothes"
    folder.mkdir()
    images = rng.integers(0, 256, (100, 28, 28), dtype=np.uint8)
    images[85] = images[7]
    for split, part in (("train", slice(0, 80)), ("t10k", slice(80, 100))):
        for what, values in (("images", images[part]), ("labels", np.arange(100)[part] % 10)):
            shape = b"".join(side.to_bytes(4, "big") for side in values.shape)
            data = bytes([0, 0, 8, values.ndim]) + shape + values.astype(np.uint8).tobytes()
            name = f"{split}-{what}-idx{values.ndim}-ubyte.gz"
            (folder / name).write_bytes(gzip.compress(data))
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_an_official_data_set_trains_and_is_scored(
    clothes: Path, tmp_path: Path, channels: int
) -> None:
    run, official = tmp_path / "run", ("--dataset", "fashion-mnist")
    trained = invoke("train", clothes, *official, *TINY, "--set", f"channels={channels}", "-o", run)
    assert trained.exit_code == 0, trained.output
    assert "clothes: Fashion-MNIST, 10 classes, 70 training images, 10 hold-out, 20 test" in (
        trained.stderr
    )
    checkpoint = Checkpoint.load(run / "best.safetensors")
    assert checkpoint.labels[:2] == ("T-shirt/top", "Trouser")
    assert checkpoint.preprocessing.channels == channels
    scored = invoke("eval", run / "best.safetensors", clothes, *official, "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["images"] == 20
    unforced = invoke("eval", run / "best.safetensors", clothes)
    assert unforced.exit_code == 1
    assert "clothes: the model does not know the labels 0, 1, 2, " in unforced.stderr


def test_duplicates_are_counted_and_warned_about(
    clothes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    describe(open_dataset(clothes, size=28, channels=1, workers=1))
    assert capsys.readouterr().err.splitlines() == [
        "clothes: MNIST, 10 classes, 70 training images, 10 hold-out, 20 test",
        "labels: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "warning: 1 of 20 test images are also training images, pixel for pixel, which inflates "
        "the test accuracy (test/00005 = train/00007)",
        "warning: 1 of 100 images have the pixels of an image of another class, so one of the "
        "labels is wrong (train/00007 = test/00005)",
    ]


def test_few_of_many_duplicates_are_named(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "data", {"train/a": 8, "train/b": 8, "test/a": 1, "test/b": 1})
    for index in range(5):
        with Image.open(folder / "train" / "a" / f"{index:03}.png") as image:
            image.save(folder / "test" / "b" / f"copy {index}.png")
    describe(open_dataset(folder, size=28, workers=1))
    told = capsys.readouterr().err
    assert "warning: 5 of 7 test images are also training images" in told
    assert told.count(" = train/a/") == 3
    assert "copy 2.png = train/a/002.png, ...)" in told


def test_thousands_have_commas(shapes: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    describe(replace(shapes, train=np.arange(1487)))
    assert capsys.readouterr().err == (
        "shapes: 3 classes, 1,487 training images, 18 hold-out, 45 test\n"
        "labels: circle, square, triangle\n"
    )


def test_long_lists_are_cut(shapes: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tuple(f"\x1b{number:02}" for number in range(25))
    unreadable = tuple((f"{number}.txt", "not in labels.csv") for number in range(1200))
    describe(replace(shapes, labels=labels, unreadable=unreadable))
    lines = capsys.readouterr().err.splitlines()
    assert lines[9:11] == ["left out 9.txt: not in labels.csv", "1,200 files left out"]
    assert lines[12].startswith(r"labels: \x1b00, \x1b01, ")
    assert lines[12].endswith(r"\x1b09 and 15 more")
    assert lines[13].startswith(r"no images of 22 of the model's 25 classes: \x1b03, ")
    assert len(lines) == 14


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals_alone(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    show = show_progress("evaluating images")
    show(1000, 2000)
    show(2000, 2000)
    line = "\revaluating images 1,000 / 2,000\revaluating images 2,000 / 2,000\n"
    assert capsys.readouterr().err == (line if terminal else "")


# --- the options ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_what_is_not_the_forced_data_set_is_one_error(
    verb: str, clothes: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    arguments = {"train": (clothes, *TINY, "-o", tmp_path / "run"), "eval": (tiny_weights, clothes)}
    result = invoke(verb, *arguments[verb], "--dataset", "cifar10")
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith(f"Error: {clothes}: not CIFAR-10, expected the files data_batch_1.bin")
    assert not (tmp_path / "run").exists()
    unknown = invoke(verb, *arguments[verb], "--dataset", "imagenet")
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
    tmp_path: Path, private_cache: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "download", lambda files, folder, **_: asked.append(folder))
    result = invoke("train", "mnist", *TINY)
    assert result.exit_code == 1
    assert "mnist: no such file or folder, and MNIST is not in" in result.stderr
    assert not asked
    downloads = private_cache / "downloads" / "mnist"
    invoke("train", "mnist", "--download", *TINY)
    invoke("eval", "m.safetensors", "mnist", "--download")  # no model: it fails before
    assert asked == [downloads]
    invoke("eval", tiny_model, "mnist", "--download")
    invoke("train", "new", "--dataset", "cifar10", "--download", *TINY)
    assert asked == [downloads, downloads, Path("new")]


def test_what_to_download_has_to_be_said(tmp_path: Path) -> None:
    result = invoke("train", tmp_path / "new", "--download", *TINY)
    assert result.exit_code == 1
    assert "which data set to download is not said, expected one of cifar10, cifar100, mnist, " in (
        result.stderr
    )


def test_the_options_name_what_the_library_knows(shapes_folder: Path) -> None:
    assert (FOLDER, *OFFICIAL) == DATASETS
    assert locate(shapes_folder, official=DATASETS[0]).official is None
    assert _data.LARGEST_TEST_SPLIT == location.LARGEST_TEST_SPLIT

"""Whole data sets: pixels, fingerprint, unreadable and duplicate images, real ones, large ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import SPLITS, Dataset, DatasetError, check_labels, locate, open_dataset
from nin_edge.weights import WEIGHTS
from nin_edge_runtime.image import load_image
from nin_edge_runtime.preprocessing import Preprocessing

SIGN_DIGITS = 2062  # images in sign-digits.tar
SIGN_DIGITS_FINGERPRINT = "058aa5b1e8ea1ef05fc22b7a85b6bfb7a2b9e99206a236d62707ba176750830a"
CIFAR10_JPEG = "74eaa8f02e455c8452f927c7c3c92ac0e438673787bd9f9ab67e76a9209f0a8e"  # at 32 x 32
TINY_IMAGENET_JPEG = (
    "7fbec29a5e27cabe8559f67dfa5e7aea1aa584bcc23107006049513abbfe5a7b"  # at 64 x 64
)


def read(path: Path, **options: Any) -> Dataset:
    return open_dataset(path, **{"size": 16, "workers": 1, **options})


def test_each_image_has_its_class_and_split(split_pair: Path) -> None:
    dataset = read(split_pair)
    assert (dataset.name, dataset.labels, dataset.unreadable) == ("split", ("a", "b"), ())
    assert dataset.images.shape == (22, 16, 16, 3)
    assert dataset.images.dtype == np.uint8
    splits = [split for split in SPLITS if split != "validation"]
    assert [len(dataset.indices(split)) for split in splits] == [6, 2, 14, 22]
    assert (dataset.splits, dataset.scored_split) == (("train", "test"), "test")
    for index, name in enumerate(dataset.names):
        assert dataset.labels[dataset.targets[index]] == Path(name).parts[1]
        assert (index in dataset.test) == name.startswith("test/")


def test_the_splits_have_names(split_pair: Path) -> None:
    dataset = read(split_pair)
    assert np.array_equal(dataset.indices("all"), np.arange(22))
    for split in ("train", "holdout", "test"):
        assert np.array_equal(dataset.indices(split), getattr(dataset, split))
    with pytest.raises(ValueError, match="'dev', expected one of test, validation, holdout, train"):
        dataset.indices("dev")
    with pytest.raises(DatasetError, match="split: no validation split; the split 'holdout' has"):
        dataset.indices("validation")


def test_a_validation_split_is_the_holdout(split_pair: Path) -> None:
    (split_pair / "test").rename(split_pair / "valid")
    dataset = read(split_pair)
    assert (dataset.splits, dataset.scored_split) == (("train", "validation"), "validation")
    assert [len(part) for part in (dataset.train, dataset.holdout, dataset.test)] == [16, 6, 0]
    for part in (dataset.holdout, dataset.indices("validation"), dataset.scored):
        assert {dataset.names[index][:6] for index in part} == {"valid/"}
    share = open_dataset(locate(split_pair, test_split=0.25), size=16, workers=1)
    assert [len(part) for part in (share.train, share.holdout, share.test)] == [12, 6, 4]
    assert share.fingerprint != dataset.fingerprint
    assert share.scored_split == "test"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, float("nan")])
def test_a_test_split_has_a_range(pair: Path, share: float) -> None:
    with pytest.raises(DatasetError, match=f"test_split is {share}: expected above 0, to 0.9"):
        locate(pair, test_split=share)


def test_data_with_a_test_split_give_no_other(split_pair: Path) -> None:
    with pytest.raises(DatasetError, match=r"test_split is 0\.2, but the data have a test split"):
        open_dataset(locate(split_pair, test_split=0.2), size=16)


@pytest.mark.parametrize("channels", [3, 1])
def test_pixels_are_those_of_the_runtime(split_pair: Path, channels: int) -> None:
    dataset = read(split_pair, channels=channels)
    assert dataset.images.shape == (22, 16, 16, channels)
    steps = Preprocessing(16, channels, (0.5,) * channels, (0.5,) * channels)
    for name, pixels in zip(dataset.names, dataset.images, strict=True):
        np.testing.assert_array_equal(pixels, steps.resize(load_image(split_pair / name)))


def test_unreadable_images_are_reported_and_left_out(pair: Path, encoded: bytes) -> None:
    files = {
        "circle/empty.jpg": b"",
        "circle/text.jpg": b"I am text",
        "square/short.png": encoded[: len(encoded) // 2],
    }
    for name, data in files.items():
        (pair / name).write_bytes(data)
    whole = read(pair)
    assert [name for name, _ in whole.unreadable] == sorted(files)
    assert all(reason for _, reason in whole.unreadable)
    assert read(pair).unreadable == whole.unreadable  # from the cache too
    for name in files:
        (pair / name).unlink()
    clean = read(pair)
    assert (whole.names, clean.unreadable) == (clean.names, ())
    np.testing.assert_array_equal(whole.images, clean.images)


def test_images_with_fewer_pixels_than_the_network_are_counted(pair: Path, encoded: bytes) -> None:
    before = read(pair).enlarged
    Image.new("RGB", (200, 5)).save(pair / "circle" / "low.png")
    (pair / "circle" / "torn.png").write_bytes(encoded[: len(encoded) // 2])
    assert read(pair).enlarged == before + 1
    assert read(pair).enlarged == before + 1  # from the cache too


# --- identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "fingerprint"),
    [
        (3, "7d9804f2c4d17c5295fd8c97b9f6d2908c75572faf7cb041e16df9aee847db89"),
        (1, "9455548bc2197cedb386ecf93aff349bbd81cfcf58407963aa895f2166f3ddeb"),
    ],
)
def test_the_fingerprint_never_changes(tmp_path: Path, channels: int, fingerprint: str) -> None:
    rng = np.random.default_rng(0)
    for label in ("été", "b"):
        for split, count in (("train", 5), ("test", 2)):
            folder = tmp_path / "fixed" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    assert read(tmp_path / "fixed", channels=channels).fingerprint == fingerprint


@pytest.mark.parametrize("name", WEIGHTS)
def test_shipped_weights_name_the_data_that_they_were_trained_on(name: str) -> None:
    source = Checkpoint.load(WEIGHTS[name]).data
    photos = ("Tiny ImageNet (JPEG q75)", TINY_IMAGENET_JPEG)
    cifar = ("CIFAR-10 (JPEG q75)", CIFAR10_JPEG)
    assert (source.name, source.fingerprint) == (photos if name == "nin-photo" else cifar)


def test_sign_digits_opens(data_dir: Path) -> None:
    archive = data_dir / "sign-digits.tar"
    if not archive.exists():
        pytest.skip(f"no {archive}")
    dataset = read(archive)
    assert dataset.labels == tuple("0123456789")
    assert dataset.images.shape == (SIGN_DIGITS, 16, 16, 3)
    assert dataset.fingerprint == SIGN_DIGITS_FINGERPRINT
    assert dataset.unreadable == ()


def test_labels_are_compared_with_a_models(pair: Path) -> None:
    dataset = read(pair)
    check_labels(dataset, ["circle", "square"])
    for labels, words in (
        (("circle", "star"), "missing star, extra square"),
        (("circle", "square", "star"), "missing star, extra none"),
        (("square", "circle"), "the same, but the model's order is square, circle"),
    ):
        with pytest.raises(DatasetError, match=f"pair: its labels are not the model's: {words}"):
            check_labels(dataset, labels)


# --- some of a model's classes --------------------------------------------------------------------


def test_data_may_have_some_of_a_models_classes(tmp_path: Path, pair: Path) -> None:
    classes = ("square", "star", "circle", "e\u0301te\u0301")
    whole = read(pair, classes=classes)
    assert (whole.labels, whole.missing) == (classes, ("star", "e\u0301te\u0301"))
    for index, name in enumerate(whole.names):
        assert classes[whole.targets[index]] == Path(name).parts[0]
    own = read(pair)
    assert whole.fingerprint == own.fingerprint
    for part in ("train", "holdout", "test"):
        assert np.array_equal(getattr(whole, part), getattr(own, part))
    (pair / "circle").rename(tmp_path / "circle")
    (pair / "été").mkdir()  # as another machine writes it
    alone = read(pair, classes=classes)
    assert set(alone.targets) == {0}
    assert alone.missing == ("star", "circle", "e\u0301te\u0301")
    with pytest.raises(DatasetError, match="no readable training image of class été"):
        read(pair)


def test_labels_that_a_model_does_not_know_are_named(pair: Path) -> None:
    words = "pair: the model does not know the label circle, expected some of square, star"
    with pytest.raises(DatasetError, match=words):
        read(pair, classes=("square", "star"))
    with pytest.raises(DatasetError, match="not know the labels circle, square, expected some"):
        read(pair, classes=("star",))


# --- the same image twice -------------------------------------------------------------------------


def test_test_images_that_are_training_images_are_named(split_pair: Path) -> None:
    assert read(split_pair).duplicates == ()
    for name, twin in (("test/a/001", "train/b/004"), ("test/b/002", "train/a/000")):
        with Image.open(split_pair / f"{twin}.png") as image:
            image.save(split_pair / f"{name}.bmp")  # other bytes, the same pixels
    twins = (("test/a/001.bmp", "train/b/004.png"), ("test/b/002.bmp", "train/a/000.png"))
    for _ in range(2):  # decoded, then from the cache
        assert read(split_pair).duplicates == twins


def test_duplicates_within_a_split_are_no_matter(split_pair: Path) -> None:
    for split in ("train", "test"):
        data = (split_pair / split / "a" / "000.png").read_bytes()
        (split_pair / split / "b" / "copy.png").write_bytes(data)
    assert read(split_pair).duplicates == ()


def test_an_image_in_two_classes_is_a_contradiction(split_pair: Path) -> None:
    assert read(split_pair).contradictions == ()
    data = (split_pair / "train" / "a" / "000.png").read_bytes()
    for name in ("train/b/copy", "test/b/copy", "train/a/copy"):  # the last is a duplicate alone
        (split_pair / f"{name}.png").write_bytes(data)
    for _ in range(2):  # decoded, then from the cache
        dataset = read(split_pair)
        pairs = {frozenset(pair) for pair in dataset.contradictions}
        assert pairs == {
            frozenset({name, "test/b/copy.png"}) for name in ("train/a/000.png", "train/a/copy.png")
        }
        assert dataset.duplicates == (("test/b/copy.png", "train/a/000.png"),)


def test_duplicates_are_found_where_the_split_is_drawn(pair: Path) -> None:
    for file in (pair / "circle").iterdir():
        (pair / "circle" / f"copy {file.name}").write_bytes(file.read_bytes())
    dataset = read(pair)
    assert dataset.duplicates
    in_test = {dataset.names[index] for index in dataset.test}
    for name, twin in dataset.duplicates:
        assert name in in_test
        assert twin not in in_test
        assert name.removeprefix("circle/copy ") == twin.removeprefix("circle/") or (
            name.removeprefix("circle/") == twin.removeprefix("circle/copy ")
        )


# --- more than memory -----------------------------------------------------------------------------

BEYOND_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from nin_edge.data import decode, open_dataset

def main():
    decode._POOL_FROM = 100  # images from which processes decode
    status = Path("/proc/self/status").read_text().split("VmData:")[1]
    limit = int(status.split()[0]) * 1024 + int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for attempt in range(2):  # decoded, then from the cache
        data = open_dataset(Path(sys.argv[1]), size=512, workers=2, cache=Path(sys.argv[2]))
        total = 0
        for start in range(0, len(data.images), 10):
            total += int(data.images[np.arange(start, min(start + 10, len(data.images)))].sum())
    print(data.images.nbytes, len(data.duplicates), total)
    try:
        np.ones(data.images.nbytes, np.uint8)
    except MemoryError:
        print("the limit holds")

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_data_set_larger_than_memory_is_decoded_and_read(tmp_path: Path) -> None:
    # RLIMIT_DATA counts what a process allocates, and not the mapped cache, whose pages the kernel
    # takes back when memory is short; RLIMIT_AS would count the mapping as if it were memory.
    headroom, count = 64 << 20, 160  # bytes, images: the cache takes almost twice the memory
    photo = Image.new("RGB", (512, 512), "teal")
    for index in range(count):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        photo.putpixel((150, 128), (index, 0, 0))
        photo.save(folder / f"{index:04}.png", compress_level=1)
    script = tmp_path / "script.py"
    script.write_text(BEYOND_MEMORY)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "photos", tmp_path / "cache", str(headroom)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    size, duplicates, total = map(int, first.split())
    assert size == count * 512 * 512 * 3
    assert size > 1.8 * headroom
    assert (duplicates, total > 0) == (0, True)
    assert second == "the limit holds"

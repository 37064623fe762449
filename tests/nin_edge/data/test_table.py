"""Labels from a CSV file beside images that are not sorted into folders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nin_edge.data import Dataset, DatasetError, locate, open_dataset
from nin_edge.data.table import Row, find_images


@pytest.fixture
def flat(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """Six images in one folder, 000.png to 005.png."""
    return make_folder(tmp_path, {"photos": 6}) / "photos"


def read(
    data: Path, text: str, encoding: str = "utf-8", test_split: float | None = None
) -> Dataset:
    table = data.parent / "labels.csv"
    table.write_bytes(text.encode(encoding))
    location = locate(data, labels=table, test_split=test_split)
    return open_dataset(location, size=16, workers=1)


def labelled(dataset: Dataset) -> dict[str, str]:
    return {
        name: dataset.labels[target]
        for name, target in zip(dataset.names, dataset.targets, strict=True)
    }


ROWS = [
    ("000", "cat"),
    ("001", "dog"),
    ("002", "cat"),
    ("003", "dog"),
    ("004", "été"),
    ("005", "été"),
]
EXPECTED = {f"{name}.png": label for name, label in ROWS}


def csv(header: str, form: str, separator: str = "\n") -> str:
    return separator.join([header, *(form.format(*row) for row in ROWS), ""])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (csv("image,label", "{}.png,{}"), "utf-8"),
        (csv("Filename;width;Class", "{}.png;20;{}", "\r\n"), "utf-8-sig"),  # a German Excel's
        (csv("id\tcategory", "{}\t {}"), "utf-8"),
        (csv("Image\tLabel", "{}.png\t{}", "\r\n"), "utf-16"),  # Excel's Unicode text
        ("\ufeff" + csv("image,label", "{},{}"), "utf-16-be"),
        (csv("sep=;\nimage;label", "{}.png;{}"), "utf-8-sig"),
        (csv("label,image", '{1},".\\photos\\{0}.png"'), "utf-8"),
        (csv("image,label", "/home/me/photos/{}.png,{}") + "\n\n", "utf-8"),
        (csv("image,label", "{0}.png,{1}\n{0}.png,{1}"), "utf-8"),
    ],
    ids=[
        "plain",
        "semicolons",
        "tabs without suffixes",
        "utf-16",
        "big endian",
        "sep",
        "backslashes",
        "other paths",
        "twice",
    ],
)
def test_a_table_gives_the_classes(flat: Path, text: str, encoding: str) -> None:
    dataset = read(flat, text, encoding)
    assert labelled(dataset) == EXPECTED
    assert (dataset.labels, dataset.unreadable) == (("cat", "dog", "été"), ())


def test_a_table_can_name_the_splits(flat: Path) -> None:
    splits = ["train", "train", "val", "Test", "training", "test"]
    rows = [
        f"{name}.png,{label},{split}" for (name, label), split in zip(ROWS, splits, strict=True)
    ]
    dataset = read(flat, "\n".join(["image,label,split", *rows]))
    names = [
        [dataset.names[index] for index in part]
        for part in (dataset.train, dataset.holdout, dataset.test)
    ]
    assert names == [["000.png", "001.png", "004.png"], ["002.png"], ["003.png", "005.png"]]
    assert dataset.splits == ("train", "validation", "test")


def test_images_that_are_not_in_the_table_are_left_out(
    flat: Path, pack: Callable[..., Path]
) -> None:
    text = "image,label\n000.png,cat\n001.png,dog\n"
    for data in (flat, pack(flat, flat.parent / "photos.zip")):
        dataset = read(data, text)
        assert labelled(dataset) == {"000.png": "cat", "001.png": "dog"}
        assert dataset.unreadable == tuple((f"00{i}.png", "not in labels.csv") for i in range(2, 6))


def test_a_changed_table_is_another_data_set(flat: Path) -> None:
    text = csv("image,label", "{}.png,{}")
    first = read(flat, text)
    assert labelled(read(flat, text.replace("001.png,dog", "001.png,cat"))) == EXPECTED | {
        "001.png": "cat"
    }
    assert read(flat, text).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the first line is '', expected the columns image and label"),
        ("000.png,cat\n", "the first line is '000.png,cat', expected the columns image and label"),
        ("image,label\n", "no rows, expected a line for each image"),
        ("image,label\n000.png,cat\n\n001.png\n", r"line 4: \['001.png'\], expected an image and"),
        ("image,label\n000.png,\n", "line 2: .* expected an image and its label"),
        ("image,label\nx.png,cat\ny.png,cat\n", "line 2: no file 'x.png' in .*, nor 1 more of 2"),
        ("image,label\n000.png,cat\n000.png,dog\n", "line 3: '000.png' is dog, but cat in line 2"),
        ("image,label,split\n000.png,cat,best\n", "the split 'best', expected train, validation"),
        ("image,label\n000.png,cat\n", r"1 class \(cat\)"),
    ],
)
def test_a_table_that_does_not_fit_is_one_error(flat: Path, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read(flat, text)


def test_a_name_that_two_files_have_is_refused(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    data = make_folder(tmp_path / "data", {"a": 1, "b": 1})
    with pytest.raises(DatasetError, match=r"line 2: '000.png' could be a/000.png, b/000.png"):
        read(data, "image,label\n000.png,cat\n")


def test_what_is_no_table_is_refused(flat: Path, encoded: bytes) -> None:
    (flat.parent / "labels.csv").write_bytes(encoded)
    for table, words in (
        ("labels.csv", "not UTF-8 text"),
        ("none.csv", "No such file"),
        (".", "directory"),
    ):
        with pytest.raises(DatasetError, match=words):
            open_dataset(locate(flat, labels=flat.parent / table), size=16)


def test_official_data_sets_have_their_own_labels(flat: Path) -> None:
    for options in ({"labels": "labels.csv"}, {"test_split": 0.2}):
        with pytest.raises(DatasetError, match="MNIST has labels and a test split of its own"):
            locate(flat, official="mnist", **options)  # type: ignore[arg-type]


def test_a_test_split_is_taken_with_a_table(flat: Path) -> None:
    dataset = read(flat, csv("image,label", "{}.png,{}"), test_split=0.5)
    assert (len(dataset.test), len(dataset.train), dataset.splits) == (3, 3, ("train", "test"))


def test_a_long_table_is_read_in_a_time_that_grows_with_its_length() -> None:
    names = [f"{number}/x.png" for number in range(5_000)]
    rows = [Row(number + 2, f"photos/{number % 5_000}/x.png", "a", "") for number in range(20_000)]
    started = time.monotonic()
    found = find_images(Path("labels.csv"), rows, Path("photos"), names)
    assert time.monotonic() - started < 5  # a search for each row takes minutes
    assert found.keys() == set(names)


@pytest.mark.parametrize("form", ["pipe", "device", "sparse"])
def test_a_table_without_an_end_is_refused(flat: Path, form: str) -> None:
    table = flat.parent / "labels.csv"
    if form == "pipe":
        os.mkfifo(table)
    elif form == "device":
        table.symlink_to("/dev/zero")
    else:
        table.touch()
        os.truncate(table, 3 << 30)
    with pytest.raises(DatasetError, match=r"expected a table|for a table of labels"):
        open_dataset(locate(flat, labels=table), size=16)

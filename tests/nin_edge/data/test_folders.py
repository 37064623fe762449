"""Which folders are splits, which are classes, and what is refused because it could be either."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from nin_edge.data import DatasetError
from nin_edge.data.folders import Layout, read_layout, split_of


def layout(*names: str) -> Layout:
    """The layout of images, and of folders where a name ends in a slash."""
    files = [(name, PurePosixPath(name).parts) for name in names if not name.endswith("/")]
    folders = [PurePosixPath(name).parts for name in names if name.endswith("/")]
    return read_layout(Path("data"), files, folders)


def images(splits: dict[str, str], *folders: str) -> list[str]:
    """An image for each class, cat and dog, in each split's folder."""
    return [
        f"{split}/{folder}{label}/0.png"
        for split in splits
        for folder in folders or [""]
        for label in ("cat", "dog")
    ]


@pytest.mark.parametrize(
    "splits",
    [
        {"train": "train", "validation": "validation", "test": "test"},
        {"train": "train", "valid": "validation", "test": "test"},
        {"train": "train", "val": "validation"},
        {"TRAIN": "train", "Val": "validation"},
        {"training": "train", "test": "test"},
        {"Training": "train", "Testing": "test"},
        {"training_set": "train", "test_set": "test"},
        {"Train Images": "train", "Test Images": "test"},
        {"trainset": "train", "devset": "validation", "testset": "test"},
        {"TrainData": "train", "TestData": "test"},
        {"train2017": "train", "val2017": "validation"},
        {"seg_train": "train", "seg_test": "test"},
        {"training": "train", "validation": "validation", "evaluation": "test"},
        {"val": "validation", "test": "test"},
    ],
    ids=" ".join,
)
def test_splits_have_many_names(splits: dict[str, str]) -> None:
    for wrapper in ("", "photos/", "v2/photos/"):
        names = [wrapper + name for name in images(splits)]
        found = layout(*names)
        assert {(file.name, file.split, file.below) for file in found.files} == {
            (name, splits[PurePosixPath(name).parts[-3]], PurePosixPath(name).parts[-2:])
            for name in names
        }
        assert set(found.splits) == set(splits.values())


@pytest.mark.parametrize(
    "names",
    [
        ["training_set/training_set/cat/0.png", "test_set/test_set/cat/1.png"],  # unpacked twice
        ["train/images/cat/0.png", "train/images/dog/0.png", "val/images/cat/0.png"],
        ["train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "annotations/", "test/notes/"],
    ],
)
def test_folders_around_and_beside_the_classes_are_passed(names: list[str]) -> None:
    found = layout(*names)
    assert {file.below[0] for file in found.files} <= {"cat", "dog"}
    assert {file.split for file in found.files} > {"train"}


def test_an_empty_split_is_known() -> None:
    found = layout("train/cat/0.png", "train/dog/0.png", "validation/")
    assert found.splits == ("train", "validation")
    assert {file.split for file in found.files} == {"train"}


@pytest.mark.parametrize(
    "names",
    [
        ["train/0.png", "bus/0.png"],  # a class of vehicles
        ["steam train/0.png", "toy train/0.png", "test/0.png"],
        ["cat/images/0.png", "dog/images/0.png"],
        ["cat/2024/0.png", "cat/2025/0.png", "dog/0.png"],
        ["valid/0.png", "invalid/0.png"],
    ],
)
def test_what_looks_like_splits_can_be_classes(names: list[str]) -> None:
    found = layout(*names)
    assert found.splits == ()
    assert {file.below[0] for file in found.files} == {name.split("/")[0] for name in names}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (images({"day": "", "night": ""}), r"day, night hold the same folders \(cat, dog\): "),
        (["cat/train/0.png", "cat/test/0.png", "dog/train/0.png", "dog/test/0.png"], "the same"),
        (images({"amazon": "", "webcam": ""}, "images/"), r"the same folders \(cat, dog\)"),
        (
            ["animals/cat/0.png", "animals/dog/0.png", "vehicles/car/0.png"],
            r"one level of folders too many \(animals holds cat, dog; vehicles holds images\)",
        ),
        (
            [
                "train/animals/cat/0.png",
                "train/animals/dog/0.png",
                "test/animals/cat/0.png",
                "train/vehicles/car/0.png",
                "train/vehicles/bus/0.png",
            ],
            "animals holds cat, dog; vehicles holds bus, car",
        ),
        (
            ["a/x/0.png", "a/y/0.png", "b/z/0.png", "b/w/0.png", "c/u/0.png", "c/v/0.png"],
            "b holds w, z; and 1 more",
        ),
        (["logo.png", "photos/a/0.png", "photos/b/0.png"], r"too many \(photos holds a, b\): "),
        (["train/a/0.png", "test/a/0.png", "more/a/0.png"], "found more beside test, train"),
        (["train/a/0.png", "train/b/0.png", "test/a/0.png", "more/a/0.png"], "found more beside"),
        (["train/a/0.png", "val/a/0.png", "validation/a/0.png"], "name the same split"),
        (["train1/a/0.png", "train2/a/0.png"], "train1, train2 name the same split"),
    ],
)
def test_what_could_be_either_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        layout(*names)
    assert str(caught.value).startswith("data: ")
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("folders", "stray"),
    [
        ({"animals/cat", "animals/dog", "vehicles/car", "vehicles/bus"}, "animals/0.png"),
        ({"train/a/cat", "train/a/dog", "train/b/car", "test/a/cat"}, "train/a/0.png"),
        ({"day/cat", "day/dog", "night/cat", "night/dog"}, "night/0.png"),
        ({"x/y/cat", "x/y/dog", "x/z/car", "x/z/bus"}, "x/y/0.png"),
    ],
)
def test_a_stray_image_hides_no_level(folders: set[str], stray: str) -> None:
    names = [f"{folder}/{number}.png" for folder in sorted(folders) for number in range(4)]
    for strays in ((), (stray,)):
        with pytest.raises(DatasetError, match=r"too many|classes or splits\?"):
            layout(*names, *strays)


def test_a_stray_image_hides_no_split() -> None:
    names = [
        f"{split}/{label}/{n}.png" for split in ("val", "test") for label in "ab" for n in "12"
    ]
    assert layout(*names, "val/0.png").splits == ("validation", "test")


@pytest.mark.parametrize(
    ("unlabelled", "splits"),
    [
        ({"seg_pred/": 2}, {"seg_train": "train", "seg_test": "test"}),
        ({"seg_pred/": 2}, {"seg_train/seg_train": "train", "seg_test/seg_test": "test"}),
        ({"test/": 3}, {"train": "train"}),
        ({"test1/": 3, "unlabeled/": 1}, {"train": "train", "val": "validation"}),
        ({"photos/test/": 2}, {"photos/train": "train"}),
    ],
)
@pytest.mark.parametrize("inner", ["", "images/", "unknown/2024/"])
def test_images_without_classes_beside_splits_are_passed(
    unlabelled: dict[str, int], splits: dict[str, str], inner: str
) -> None:
    labelled = [f"{split}/{label}/0.png" for split in splits for label in ("cat", "dog", "owl")]
    others = [f"{top}{inner}{n}.png" for top, count in unlabelled.items() for n in range(count)]
    found = layout(*labelled, *others)
    assert found.unlabelled == unlabelled
    assert set(found.splits) == set(splits.values())
    assert {file.name for file in found.files} == set(labelled)


def test_a_name_tells_one_split_or_none() -> None:
    assert split_of("Training-Set") == ("train", ())
    assert split_of("asl_alphabet_test") == ("test", ("asl", "alphabet"))
    for name in ("cat", "", "2024", "train test", "\udcff"):
        assert split_of(name) is None

"""Which images a folder has, and the split and class that its folders give them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nin_edge.data import DatasetError, locate, open_dataset
from nin_edge.data.layout import Contents, folder_contents
from nin_edge.data.sources import open_source


def contents(folder: Path) -> Contents:
    return folder_contents(folder, open_source(folder))


def touch(top: Path, *names: str) -> Path:
    """Empty files, or folders where a name ends in a slash."""
    top.mkdir(exist_ok=True)
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).mkdir(parents=True) if name.endswith("/") else (top / name).touch()
    return top


def described(found: Contents) -> set[tuple[str, str, str]]:
    return {(member.name, member.split, member.label) for member in found.members}


def test_folders_name_the_split_and_the_class(tmp_path: Path) -> None:
    found = contents(touch(tmp_path / "data", "train/a/0.png", "train/b/1.JPG", "Test/a/2.png"))
    assert found.labels == ("a", "b")
    assert found.unclassed == ()
    assert described(found) == {
        ("train/a/0.png", "train", "a"),
        ("train/b/1.JPG", "train", "b"),
        ("Test/a/2.png", "test", "a"),
    }


def test_without_splits_folders_name_the_class(tmp_path: Path) -> None:
    found = contents(touch(tmp_path / "data", "a/0.png", "b/1.png"))
    assert described(found) == {("a/0.png", "", "a"), ("b/1.png", "", "b")}
    assert found.splits == ()


def test_training_images_alone_name_no_split(tmp_path: Path) -> None:
    found = contents(touch(tmp_path / "data", "train/a/0.png", "train/b/1.png"))
    assert described(found) == {("train/a/0.png", "", "a"), ("train/b/1.png", "", "b")}


def test_folders_around_the_data_are_passed(tmp_path: Path) -> None:
    names = ("v2/pics/train/a/0.png", "v2/pics/train/b/1.png", "v2/pics/test/a/2.png")
    found = contents(touch(tmp_path / "data", *names))
    assert found.labels == ("a", "b")
    assert {member.split for member in found.members} == {"train", "test"}


def test_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    found = contents(touch(tmp_path / "data", "a/2024/0.png", "a/2025/0.png", "b/0.png"))
    assert [member.label for member in found.members] == ["a", "a", "b"]


def test_hidden_and_other_files_are_passed(tmp_path: Path) -> None:
    names = ("a/notes.txt", ".thumbnails/x.png", "a/._0.png", "__MACOSX/a/0.png")
    found = contents(touch(tmp_path / "data", "a/0.png", "b/0.png", *names))
    assert [member.name for member in found.members] == ["a/0.png", "b/0.png"]
    assert (found.labels, found.unclassed) == (("a", "b"), ())


def test_labels_are_in_code_point_order(tmp_path: Path) -> None:
    labels = ("b", "10", "é", "9", "B")
    found = contents(touch(tmp_path / "data", *(f"{label}/0.png" for label in labels)))
    assert found.labels == ("10", "9", "B", "b", "é")


@pytest.mark.parametrize(
    "others",
    [
        ("models/x.onnx", "models/x.report.html"),
        ("notes/a.txt", "notes/old/b.txt"),
        ("annotations/a.json",),
        ("clips/a.mp4", "a/labels/a.xml"),
    ],
)
@pytest.mark.parametrize("top", ["", "train/"])
def test_a_folder_of_other_files_is_no_class(
    tmp_path: Path, others: tuple[str, ...], top: str
) -> None:
    names = [f"{top}{name}" for name in ("a/0.png", "b/0.png", *others)]
    splits = ("test/a/0.png", "val/x.txt") if top else ()
    found = contents(touch(tmp_path / "data", *names, *splits))
    assert found.labels == ("a", "b")
    assert found.splits == (("train", "test") if top else ())


@pytest.mark.parametrize("name", ["bird/", "bird/2024/", "bird/.gitkeep"])
def test_an_empty_folder_may_be_a_class_to_fill(pair: Path, name: str) -> None:
    touch(pair, name)
    with pytest.raises(DatasetError, match="image of class bird; fill its folder, or delete it"):
        open_dataset(pair, size=16)
    scored = open_dataset(pair, size=16, classes=["square", "circle"])  # nothing to score in it
    assert (scored.labels, len(scored.names)) == (("square", "circle"), 20)
    assert {scored.labels[target] for target in scored.targets[:10]} == {"circle"}


def test_images_without_classes_beside_the_splits_are_left_out(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    labels = {"a": 5, "b": 5}
    train = {f"v2/train/{label}": count for label, count in labels.items()}
    top = make_folder(tmp_path / "kaggle", {**train, "v2/test": 3})
    for _ in range(2):  # decoded, then from the cache
        dataset = open_dataset(top, size=16)
        (left_out,) = dataset.unreadable
        assert left_out == ("v2/test/", "3 images without classes; nin-edge run labels them")
        assert (len(dataset.test), dataset.splits) == (0, ("train",))
        assert dataset.default_split == dataset.scored_split == "holdout"
        assert len(dataset.train) + len(dataset.holdout) == 10


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("images/{}.png", "labels/{}.txt"), r"\(labels/0.txt, as for most images\)"),  # YOLO
        (("train/images/{}.png", "train/labels/{}.txt", "valid/images/{}.png"), "train/labels/0"),
        (("x/JPEGImages/{}.png", "x/Annotations/{}.xml"), "x/Annotations/0.xml"),  # Pascal VOC
        (("{}.jpg", "{}.json"), "0.json"),  # LabelMe
        (("val2017/{}.jpg", "annotations/instances_val2017.json"), "instances_val2017.json"),
        (("train/{}.jpg", "train/_annotations.coco.json"), "train/_annotations.coco.json"),
    ],
)
def test_a_data_set_for_detection_is_named(
    tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    files = {name.format(number) for name in names for number in range(4)}
    with pytest.raises(DatasetError, match=f"for detection or segmentation .*{words}"):
        contents(touch(tmp_path / "data", *files))


def test_classes_with_a_file_beside_each_image_are_classes(tmp_path: Path) -> None:
    found = contents(touch(tmp_path / "data", "a/0.png", "a/0.json", "b/1.png", "b/1.txt"))
    assert found.labels == ("a", "b")


def test_a_link_that_leads_back_up_is_passed(tmp_path: Path) -> None:
    folder = touch(tmp_path / "data", "a/0.png", "b/0.png")
    (folder / "a" / "again").symlink_to(folder)
    assert len(contents(folder).members) == 2


@pytest.mark.parametrize("label", ["été", "犬 子", "a:b*?\n", "e\u0301"])
def test_any_folder_name_is_a_label(tmp_path: Path, encoded: bytes, label: str) -> None:
    for folder in (label, "Z"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "data" / folder / f"{folder} {index}.PNG").write_bytes(encoded)
    for _ in range(2):  # decoded, then from the cache
        dataset = open_dataset(tmp_path / "data", size=16)
        assert dataset.labels == tuple(sorted([label, "Z"]))
        assert f"{label}/{label} 0.PNG" in dataset.names


# --- what cannot be trained on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no image files in it"),
        ({"a/x.txt": b"text"}, "no image files in it"),
        ({"a/0.png": None, "a/1.png": None}, r"1 class \(a\), expected .* at least two"),
        ({"train/a/0.png": None, "test/a/0.png": None}, r"1 class \(a\), expected .* at least two"),
        ({"0.png": None, "1.png": None}, "2 images and no folder of a class, expected .* --labels"),
        ({"train/0.png": None, "test/1.png": None}, "2 images and no folder of a class"),
        ({"a/0.png": None, "b/0.png": b"text"}, "no readable training image of class b"),
        ({"train/a/0.png": None, "test/a/0.png": None, "test/b/0.png": None}, "image of class b"),
        (
            {"train/a/0.png": None, "train/b/0.png": None, "valid/a/0.png": b"text"},
            "no readable image in a class of its validation split",
        ),
        ({"train/a/0.png": None, "val/b/0.png": None}, "image of class b"),
        ({"a/0.png": b"text", "b/0.png": b"text"}, "no readable image; a/0.png: not an image"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(
    tmp_path: Path, encoded: bytes, private_cache: Path, files: dict[str, bytes | None], words: str
) -> None:
    top = tmp_path / "data"
    top.mkdir()
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(encoded if data is None else data)
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(top, size=16)
    assert str(caught.value).startswith(f"{top}: ")
    assert not list(private_cache.glob(".building-*"))


def test_a_label_that_no_checkpoint_can_have_is_refused(tmp_path: Path) -> None:
    folder = touch(tmp_path / "data", "cat/0.png", "dog/0.png")
    table = tmp_path / "labels.csv"
    table.write_text(f"image,label\ncat/0.png,cat\ndog/0.png,{'x' * 1001}\n")
    with pytest.raises(DatasetError, match=r"csv: the label 'xxx.* of 1,001 characters, expected"):
        open_dataset(locate(folder, labels=table), size=16)


def test_a_folder_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = touch(tmp_path / "data", f"{os.fsdecode(bytes([0xFF, 0xFE]))}/0.png", "Z/0.png")
    with pytest.raises(DatasetError, match="not UTF-8"):
        contents(folder)


def test_images_outside_the_classes_are_named(pair: Path, encoded: bytes) -> None:
    (pair / "loose.png").write_bytes(encoded)
    dataset = open_dataset(pair, size=16)
    assert dataset.unreadable == (("loose.png", "outside the folders of the classes"),)


def test_the_reason_is_given_where_a_whole_class_is_unreadable(pair: Path) -> None:
    for path in (pair / "circle").iterdir():
        path.write_text("no image")
    with pytest.raises(DatasetError, match=r"of class circle; circle/.*not an image"):
        open_dataset(pair, size=16)

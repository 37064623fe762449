"""Which official data set lies there, and when that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nin_edge.data import DatasetError, Location, locate, open_dataset


def labels(location: Location) -> tuple[str, ...]:
    return open_dataset(location, size=28, channels=1, workers=1).labels


@pytest.mark.parametrize(
    ("place", "forced"),
    [
        ("fashion-mnist", None),
        ("FashionMNIST/raw", None),
        ("torch/FashionMNIST/raw", None),
        ("clothes", "fashion-mnist"),
    ],
)
def test_a_name_tells_fashion_mnist(
    official: Any, tmp_path: Path, digits: Any, place: str, forced: str | None
) -> None:
    folder = official.write(tmp_path / place, official.idx_files(digits))
    path = tmp_path / "torch" if place.startswith("torch") else folder
    location = locate(path, official=forced)
    assert location.official == "fashion-mnist"
    dataset = open_dataset(location, size=28, channels=1, workers=1)
    official.check(dataset, digits, "t10k", official.CLOTHES)
    assert labels(locate(path, official="mnist")) == tuple("0123456789")


def test_two_data_sets_in_a_folder_have_to_be_told_apart(
    official: Any, tmp_path: Path, cifar10: Any, cifar100: Any
) -> None:
    for name, truth in (("ten", cifar10), ("hundred", cifar100)):
        official.write(tmp_path / "data" / name, official.binary(truth))
    with pytest.raises(DatasetError, match=r"CIFAR-10 and CIFAR-100; say which by --dataset"):
        locate(tmp_path / "data")
    assert len(labels(locate(tmp_path / "data", official="cifar100"))) == 100


def test_two_archives_in_a_folder_have_to_be_told_apart(
    official: Any, tmp_path: Path, cifar10: Any, cifar100: Any
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for folder, files, name in (
        ("ten", official.binary(cifar10), "cifar-10-binary.tar.gz"),
        ("hundred", official.python(cifar100), "cifar-100-python.tar.gz"),
    ):
        official.packed(official.write(tmp_path / folder, files), data / name)
    with pytest.raises(DatasetError, match=r"holds CIFAR-100? and CIFAR-100?; say which"):
        locate(data)
    assert len(labels(locate(data, official="cifar10"))) == 10


def test_image_files_beside_a_data_set_have_to_be_told_apart(
    official: Any, tmp_path: Path, digits: Any, make_folder: Callable[..., Path]
) -> None:
    path = make_folder(tmp_path / "data", {"a": 5, "b": 5})
    official.write(path, official.idx_files(digits))
    with pytest.raises(DatasetError, match=r"MNIST and image files; say which by --dataset"):
        locate(path)
    assert labels(locate(path, official="folder")) == ("a", "b")
    assert len(labels(locate(path, official="mnist"))) == 10


def test_some_files_with_official_names_do_not_stop_a_folder(
    official: Any, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    path = make_folder(tmp_path / "data", {"a": 5, "b": 5})
    official.write(path, {"train": b"a/000.png", "test": b"b/000.png"})
    assert locate(path).official is None
    assert labels(locate(path)) == ("a", "b")


def test_a_data_set_that_is_there_twice_is_refused(
    official: Any, tmp_path: Path, digits: Any
) -> None:
    for name in ("one", "two"):
        official.write(tmp_path / "data" / name, official.idx_files(digits))
    with pytest.raises(DatasetError, match="holds MNIST more than once, name the folder of one"):
        locate(tmp_path / "data")


@pytest.mark.parametrize("form", ["binary", "python"])
def test_a_missing_file_is_named(official: Any, tmp_path: Path, cifar10: Any, form: str) -> None:
    files = getattr(official, form)(cifar10)
    folder = official.write(
        tmp_path / "c", {name: data for name, data in files.items() if "batch_4" not in name}
    )
    for forced in (None, "cifar10"):
        with pytest.raises(DatasetError, match=r"an incomplete CIFAR-10, without data_batch_4"):
            labels(locate(folder, official=forced))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
def test_a_folder_is_not_what_was_asked_for(
    tmp_path: Path, make_folder: Callable[..., Path], name: str
) -> None:
    path = make_folder(tmp_path / "data", {"a": 5, "b": 5})
    with pytest.raises(DatasetError, match=r"data: not \S+, expected the files ") as caught:
        labels(locate(path, official=name))
    assert "\n" not in str(caught.value)


def test_a_data_set_is_not_a_folder_of_images(official: Any, tmp_path: Path, digits: Any) -> None:
    folder = official.write(tmp_path / "raw", official.idx_files(digits))
    with pytest.raises(DatasetError, match="no image files in it"):
        labels(locate(folder, official="folder"))

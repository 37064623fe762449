"""What DATA means: paths, names of official data sets, downloads."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nin_edge.data import (
    OFFICIAL,
    Dataset,
    DatasetError,
    Location,
    archives,
    dataset_name,
    download,
    locate,
    open_dataset,
)
from nin_edge.data.archives import TarArchive
from nin_edge.data.download import CATALOGUE, Remote
from nin_edge_runtime.folders import Listing


def read(location: Location) -> Dataset:
    return open_dataset(location, size=28, channels=1, workers=1)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name of a data set is a file here."""
    monkeypatch.chdir(tmp_path)


def test_a_folder_of_images_has_no_native_shape(pair: Path) -> None:
    location = locate(pair)
    assert location == Location(pair, "pair", None)
    assert location.native_shape is None
    assert locate(str(pair)) == location


@pytest.mark.parametrize("name", ["data.tar", "data.tar.gz", "data.tgz", "data.zip", "data.tar.xz"])
def test_an_archives_endings_are_no_part_of_its_name(name: str) -> None:
    assert dataset_name(Path("somewhere") / name) == "data"


def test_a_folders_name_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "v1.zip").mkdir()
    assert dataset_name(tmp_path / "v1.zip") == "v1.zip"
    assert dataset_name(Path()) == tmp_path.name
    assert dataset_name(Path("photos \udcff.tar")) == r"photos \xff"  # as text can have it


def test_a_configuration_has_absolute_paths_and_none_that_is_no_text(tmp_path: Path) -> None:
    location = Location(Path("data"), "data", None, labels=Path("labels.csv")).absolute()
    assert (location.path, location.labels) == (tmp_path / "data", tmp_path / "labels.csv")
    for one in ({"path": Path("\udcff")}, {"labels": Path("\udcff", "labels.csv")}):
        with pytest.raises(DatasetError, match="not in UTF-8, as a run's configuration"):
            replace(location, **one).absolute()


@pytest.mark.parametrize(
    ("place", "official_name", "shape"),
    [
        ("raw", "mnist", (28, 1)),
        ("fashion-mnist", "fashion-mnist", (28, 1)),
        ("batches", "cifar10", (32, 3)),
    ],
)
def test_the_native_shape_is_known_before_anything_is_decoded(
    official: Any,
    tmp_path: Path,
    digits: Any,
    cifar10: Any,
    place: str,
    official_name: str,
    shape: tuple[int, int],
) -> None:
    files = official.binary(cifar10) if place == "batches" else official.idx_files(digits)
    folder = official.write(tmp_path / place, files)
    packed = official.packed(folder, tmp_path / f"{place}.tar.gz")
    for path in (folder, packed):
        location = locate(path)
        assert (location.official, location.native_shape) == (official_name, shape)


def test_a_published_archive_is_known_by_its_name(
    official: Any, tmp_path: Path, cifar100: Any
) -> None:
    folder = official.write(tmp_path / "c", official.binary(cifar100))
    (tmp_path / "in").mkdir()
    path = official.packed(folder, tmp_path / "in" / "cifar-100-binary.tar.gz")
    path.write_bytes(path.read_bytes()[:2000])  # it could not be listed
    expected = Location(path, "cifar-100-binary", "cifar100")
    assert locate(path) == expected
    assert locate(path.parent) == Location(path, "in", "cifar100")
    assert expected.native_shape == (32, 3)


def test_an_archive_is_listed_once(
    pair: Path,
    tmp_path: Path,
    pack: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed: list[Path] = []

    def listing(self: TarArchive) -> Listing:
        listed.append(self.path)
        return archives._tar_listing(self, self.stamp())

    monkeypatch.setattr(TarArchive, "listing", property(listing))
    path = pack(pair, tmp_path / "data.tar.xz")
    assert locate(path) == locate(path) == Location(path, "data", None)
    assert listed == [path]
    pack(pair / "circle", path)  # a changed archive may be something else
    locate(path)
    assert listed == [path, path]


def test_an_archive_is_recognised_without_room_for_a_note(
    official: Any, tmp_path: Path, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = official.write(tmp_path / "raw", official.idx_files(digits))
    path = official.packed(folder, tmp_path / "digits.zip")

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nin_edge.data.location.write_atomically", full)
    assert locate(path).official == "mnist"


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    for official in (None, "folder", "mnist"):
        with pytest.raises(DatasetError, match=r"missing: no such file or folder"):
            locate(tmp_path / "missing", official=official)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'imagenet', expected one of folder, cifar10"):
        locate(tmp_path, official="imagenet")
    assert tuple(OFFICIAL) == ("cifar10", "cifar100", "mnist", "fashion-mnist")


def test_one_file_of_a_data_set_is_not_enough(official: Any, tmp_path: Path, digits: Any) -> None:
    folder = official.write(tmp_path / "raw", official.idx_files(digits))
    with pytest.raises(DatasetError, match="one file of a data set, expected the folder"):
        locate(folder / "train-images-idx3-ubyte.gz")


# --- names and downloads --------------------------------------------------------------------------


def test_a_name_that_was_not_downloaded_says_how() -> None:
    with pytest.raises(DatasetError, match=r"^mnist: no such .* MNIST is not in .*--download"):
        locate("mnist")
    with pytest.raises(DatasetError, match=r"^mnist: the name of MNIST, not of cifar10"):
        locate("mnist", official="cifar10")


def test_a_name_means_what_was_downloaded_unless_it_is_a_path(
    official: Any, tmp_path: Path, digits: Any, private_cache: Path
) -> None:
    downloads = private_cache / "downloads" / "fashion-mnist"
    official.write(downloads, official.idx_files(digits))
    location = locate("fashion-mnist")
    assert location == Location(downloads, "fashion-mnist", "fashion-mnist")
    assert len(read(location).names) == 80
    official.write(tmp_path / "fashion-mnist", official.idx_files(digits))
    assert locate("fashion-mnist").path == Path("fashion-mnist")  # a path comes first


@pytest.fixture
def mnist(
    official: Any, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, bytes], list[str]]:
    """MNIST's files in small, and the names of those that were fetched."""
    files = official.idx_files(digits)
    remotes = tuple(
        Remote((f"https://host/{name}",), len(data), hashlib.md5(data).hexdigest())
        for name, data in files.items()
    )
    monkeypatch.setitem(CATALOGUE, "mnist", remotes)
    fetched: list[str] = []

    def fetch(remote: Remote, target: Path, *_: object) -> None:
        fetched.append(remote.name)
        target.write_bytes(files[remote.name])

    monkeypatch.setattr(download, "_fetch", fetch)
    return files, fetched


def test_a_name_is_fetched_to_the_cache_once(
    mnist: tuple[dict[str, bytes], list[str]], private_cache: Path, tmp_path: Path
) -> None:
    files, fetched = mnist
    for _ in range(2):
        location = locate("mnist", download=True)
        folder = private_cache / "downloads" / "mnist"
        assert location == Location(folder, "mnist", "mnist")
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == files
    assert fetched == list(files)
    assert len(read(location).names) == 80
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_users_is_filled(
    official: Any, mnist: tuple[dict[str, bytes], list[str]], tmp_path: Path
) -> None:
    files, fetched = mnist
    (first, data), *rest = files.items()
    folder = official.write(tmp_path / "data", {first: data})
    assert locate(folder, official="mnist", download=True) == Location(folder, "data", "mnist")
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == files
    assert fetched == [name for name, _ in rest]


def test_what_is_there_in_another_form_is_not_fetched(
    official: Any, mnist: tuple[dict[str, bytes], list[str]], digits: Any, tmp_path: Path
) -> None:
    files, fetched = mnist
    plain = {name.removesuffix(".gz"): gzip.decompress(data) for name, data in files.items()}
    folder = official.write(tmp_path / "data" / "raw", plain)
    assert locate(folder.parent, official="mnist", download=True).path == folder.parent
    archive = official.packed(folder, tmp_path / "archive.tar.gz")
    assert locate(archive, official="mnist", download=True).path == archive
    assert not fetched


@pytest.mark.parametrize("official_name", [None, "folder"])
def test_what_to_download_has_to_be_said(tmp_path: Path, official_name: str | None) -> None:
    with pytest.raises(DatasetError, match="which data set to download is not said, expected one"):
        locate(tmp_path / "data", official=official_name, download=True)
    assert not (tmp_path / "data").exists()


def test_a_name_is_not_fetched_as_something_else(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the name of CIFAR-10, not of mnist"):
        locate("cifar10", official="mnist", download=True)
    assert not list(tmp_path.iterdir())

"""Tar and zip: equal to their folder, unsafe members refused, damage found."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nin_edge.data import Dataset, DatasetError, open_dataset

ARCHIVES = ["data.tar", "data.tar.gz", "data.tar.bz2", "data.tar.xz", "data.zip"]


def read(path: Path) -> Dataset:
    return open_dataset(path, size=16, workers=1)


def same(a: Dataset, b: Dataset) -> bool:
    """Equal in everything that training uses; the fingerprint covers the pixels and targets."""
    return (a.fingerprint, a.labels, a.names) == (b.fingerprint, b.labels, b.names)


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_equals_its_folder(
    split_pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], name: str
) -> None:
    dataset = read(pack(split_pair, tmp_path / name))
    assert dataset.name == "data"
    assert same(dataset, read(split_pair))


def test_tar_members_may_start_with_a_dot(pair: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "dot.tar", "w") as tar:
        tar.add(pair, ".")  # as `tar -C folder -cf dot.tar .`
    dataset = read(tmp_path / "dot.tar")
    assert dataset.labels == ("circle", "square")
    np.testing.assert_array_equal(dataset.images, read(pair).images)


@pytest.mark.parametrize("suffix", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_of_a_member_written_twice_the_last_counts(
    pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], encoded: bytes, suffix: str
) -> None:
    archive = pack(pair, tmp_path / f"twice.{suffix}")
    if suffix == "tar":
        with tarfile.open(archive, "a") as tar:
            member = tarfile.TarInfo("square/000.png")
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    else:
        with zipfile.ZipFile(archive, "a") as zipped:
            zipped.writestr("square/000.png", encoded)
    dataset = read(archive)
    (pair / "square" / "000.png").write_bytes(encoded)
    assert same(dataset, read(pair))


# --- unsafe members -------------------------------------------------------------------------------


def write_tar(path: Path, name: str, data: bytes, member_type: bytes, target: str) -> None:
    with tarfile.open(path, "w") as tar:
        for member_name in ("a/0.png", "b/0.png"):
            member = tarfile.TarInfo(member_name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = member_type, target
        member.size = len(data) if member_type == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/abs.jpg", "a/..", "..\\x.jpg"])
@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_member_paths_outside_the_archive_are_refused(
    tmp_path: Path, encoded: bytes, name: str, suffix: str
) -> None:
    path = tmp_path / f"evil.{suffix}"
    if suffix == "tar":
        write_tar(path, name, encoded, tarfile.REGTYPE, "")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for member in ("a/0.png", "b/0.png", name):
                archive.writestr(member, encoded)
    with pytest.raises(DatasetError, match=r"has a path outside the archive; refused") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "member_type", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"]
)
@pytest.mark.parametrize("target", ["a/0.png", "/etc/passwd"])
def test_links_in_a_tar_are_refused(
    tmp_path: Path, encoded: bytes, member_type: bytes, target: str
) -> None:
    write_tar(tmp_path / "evil.tar", "b/link.png", encoded, member_type, target)
    with pytest.raises(DatasetError, match=r"'b/link\.png' is a link\b.* refused"):
        read(tmp_path / "evil.tar")


def test_links_in_a_zip_are_refused(tmp_path: Path, encoded: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("a/0.png", "b/0.png"):
            archive.writestr(name, encoded)
        link = zipfile.ZipInfo("b/link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DatasetError, match=r"'b/link\.png' is a link\b.* refused"):
        read(tmp_path / "evil.zip")


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.7])
def test_a_truncated_archive_is_refused(
    pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], name: str, part: float
) -> None:
    path = pack(pair, tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DatasetError, match=r"truncated or broken|nor a readable") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [-600, 0, 200, 512])
def test_a_tar_that_ends_around_a_members_header_is_refused(
    pair: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], cut: int
) -> None:
    path = pack(pair, tmp_path / "data.tar")
    with tarfile.open(path) as tar:
        start = tar.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[: start + cut])
    with pytest.raises(DatasetError, match="truncated or broken"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am text\n" * 100,
        b"\x1f\x8b\x08junk",
        b"\xfd7zXZ\0junk",
        b"BZh9junk",
        b"PK\5\6",
    ],
    ids=["empty", "text", "gz", "xz", "bz2", "zip"],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.tar").write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"data\.tar: (neither a folder nor|a truncated or broken)"
    ):
        read(tmp_path / "data.tar")

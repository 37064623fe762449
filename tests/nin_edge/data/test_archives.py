"""Tar and zip: equal to their folder, unsafe members refused, damage found."""

from __future__ import annotations

import copy
import gzip
import io
import lzma
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge.data import Dataset, DatasetError, archives, open_dataset

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


# --- archives that become, or claim, any number of bytes ------------------------------------------


def header(name: str, size: int, member_type: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a tar's member, which claims a size."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, member_type
    return member.tobuf(tarfile.GNU_FORMAT)


def extended(data: bytes, member_type: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header with its data."""
    return header("x", len(data), member_type) + data + bytes(-len(data) % 512)


def pax(key: str, value: str | int = "", member_type: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header of one record."""
    return extended(record(key, value), member_type)


def record(key: str, value: str | int) -> bytes:
    rest = f" {key}={value}\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return f"{length}{rest}".encode()


EMPTY = header("a/2.png", 0)
SPARSE = record("GNU.sparse.major", 1) + record("GNU.sparse.minor", 0)

HUGE_TARS = {
    "a member of 2^44 bytes": header("a/2.png", 1 << 44),
    "a member beyond the end": header("a/2.png", 4096) + bytes(1024),
    "a member of 2^44 bytes in pax": pax("size", 1 << 44) + header("a/2.png", 0),
    "a long name of 2^44 bytes": header("x", 1 << 44, tarfile.GNUTYPE_LONGNAME),
    "a long link of 2^44 bytes": header("x", 1 << 44, tarfile.GNUTYPE_LONGLINK),
    "a pax header of 2^44 bytes": header("x", 1 << 44, tarfile.XHDTYPE),
    "a global header of 2 MB": header("x", 2 << 20, tarfile.XGLTYPE) + bytes(2 << 20),
    "a sparse member": header("a/2.png", 512, tarfile.GNUTYPE_SPARSE) + bytes(512),
    "a sparse map": pax("GNU.sparse.map", "1," * 1000 + "1") + EMPTY,
    "a sparse size": pax("GNU.sparse.size", 5) + EMPTY,
    "an endless sparse map": extended(SPARSE)
    + header("a/2.png", 1 << 20)
    + b"999999999\n".ljust(1 << 20, b"1"),
    "digits without end": extended(b"1" * 500_000) + EMPTY,
    "a number of many digits": pax("comment", "1" * 500_000) + EMPTY,
    "records in each other": extended(b"2 " * 250_000 + b"=") + EMPTY,
    "a record beyond the end": extended(b"999 a=b\n") + EMPTY,
    "4 MB of attributes": pax("a", "b" * 999_000) * 4 + EMPTY,
    "4 MB of attributes of four members": (pax("a", "b" * 999_000) + EMPTY) * 4,
    "many global attributes": b"".join(
        pax(f"key {number}", "", tarfile.XGLTYPE) for number in range(200)
    )
    + EMPTY,
    "a chain of long names": extended(b"a/name", tarfile.GNUTYPE_LONGNAME) * 50 + EMPTY,
    "a long name": extended(b"a/" + b"n" * 5000, tarfile.GNUTYPE_LONGNAME) + EMPTY,
    "a long name in pax": pax("path", "a/" + "n" * 5000) + EMPTY,
    "a deep name": extended(b"a/" * 1000, tarfile.GNUTYPE_LONGNAME) + EMPTY,
}


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
@pytest.mark.parametrize("tail", HUGE_TARS.values(), ids=HUGE_TARS)
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_a_tar_that_claims_more_than_it_has_is_refused_at_once(
    tmp_path: Path, encoded: bytes, tail: bytes, ending: str, first: bool
) -> None:
    body = b"" if first else header("a/0.png", len(encoded)) + encoded.ljust(1024, b"\0")
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[ending]
    path = tmp_path / f"evil.tar{ending}"
    path.write_bytes(pack(body + tail + bytes(1024)))
    started = time.monotonic()
    with pytest.raises(DatasetError, match=r"truncated or broken|nor a readable|refused") as caught:
        read(path)
    assert time.monotonic() - started < 2
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ARCHIVES[1:])
def test_a_compressed_archive_that_becomes_too_large_is_refused(
    pair: Path,
    tmp_path: Path,
    pack: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    path = pack(pair, tmp_path / name)
    monkeypatch.setattr(archives, "MAX_UNPACKED", 5_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 0)
    with pytest.raises(DatasetError, match=r"unpacks to more than 5,000 bytes.*refused"):
        read(path)
    monkeypatch.setattr(archives, "MAX_RATIO", 200)
    read(path)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_member_that_is_too_large_is_refused(
    pair: Path,
    tmp_path: Path,
    pack: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER", 100)
    with pytest.raises(
        DatasetError, match=r"member '.*png' has [\d,]+ bytes, expected at most 100;"
    ):
        read(pack(pair, tmp_path / name))


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_of_too_many_members_is_refused(
    pair: Path,
    tmp_path: Path,
    pack: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    path = pack(pair, tmp_path / name)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    monkeypatch.setattr(archives, "MAX_SHARE", 1 << 30)
    with pytest.raises(DatasetError, match="more than 3 members, expected 3, or one for"):
        read(path)
    monkeypatch.setattr(archives, "MAX_SHARE", 1)
    read(path)


def test_attributes_that_tools_write_are_read(pair: Path, tmp_path: Path) -> None:
    headers = {"comment": "f" * 40}  # as `git archive`
    with tarfile.open(
        tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers
    ) as tar:
        for path in sorted(pair.rglob("*.png")):
            member = tar.gettarinfo(path, f"{path.parent.name}/{'long' * 30}/{path.name}")
            member.pax_headers = {"SCHILY.xattr.user.note": "n" * 900, "mtime": "1.5"}
            tar.addfile(member, io.BytesIO(path.read_bytes()))
    np.testing.assert_array_equal(read(tmp_path / "a.tar.gz").images, read(pair).images)


def test_xz_of_several_streams_is_read(pair: Path, tmp_path: Path, pack: Any) -> None:
    data = pack(pair, tmp_path / "data.tar").read_bytes()
    half = len(data) // 2
    streams = lzma.compress(data[:half]) + bytes(8) + lzma.compress(data[half:]) + bytes(4)
    (tmp_path / "data.tar.xz").write_bytes(streams)
    assert same(read(tmp_path / "data.tar.xz"), read(pair))


def test_a_dictionary_of_gigabytes_is_refused(tmp_path: Path) -> None:
    packed = bytearray(lzma.compress(bytes(10_000)))
    header_size = 4 * (packed[12] + 1)
    place = packed.index(b"\x21\x01", 12) + 2  # the filter, LZMA2, and the length of its settings
    packed[place] = 40  # 4 GiB
    check = zlib.crc32(packed[12 : 12 + header_size - 4])
    packed[12 + header_size - 4 : 12 + header_size] = struct.pack("<I", check)
    (tmp_path / "data.tar.xz").write_bytes(packed)
    with pytest.raises(DatasetError, match=r"[Mm]emory"):
        read(tmp_path / "data.tar.xz")


# --- hostile directories of zips ------------------------------------------------------------------


def write_zip(path: Path, data: bytes, change: Callable[[zipfile.ZipFile], None]) -> None:
    """A zip of two images, its directory changed before it is written."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/0.png", "b/0.png"):
            archive.writestr(name, data)
        change(archive)


def repeated(count: int, **fields: object) -> Callable[[zipfile.ZipFile], None]:
    """More entries of the first member, with other names and some fields changed."""

    def change(archive: zipfile.ZipFile) -> None:
        for number in range(count):
            entry = copy.copy(archive.filelist[0])
            entry.filename = f"b/{number + 1}.png"
            for name, value in fields.items():
                setattr(entry, name, value)
            archive.filelist.append(entry)

    return change


DIRECTORIES = {
    "40,000 entries": (repeated(40_000), r"more than [23]\d,\d+ members"),
    "long extra fields": (repeated(1, extra=b"\x99\x99\0\0" * 2000), "8,000 bytes of extra fields"),
    "many extra fields": (
        repeated(2000, extra=b"\x99\x99\0\0" * 1000),
        "4,000 bytes of extra fields, [\\d,]+ with",
    ),
    "entries of one member": (repeated(3, file_size=2 << 30), "unpacks to more than|has [\\d,]+ b"),
    "a long name": (repeated(1, filename="b/" + "n" * 5000), "5,002 characters and 2 parts"),
    "a deep name": (repeated(1, filename="b/" * 500), r"50\d parts, expected at most"),
    "an offset beyond the end": (repeated(1, header_offset=1 << 40), "truncated or broken"),
    "a size of 2^62": (repeated(1, file_size=1 << 62), "unpacks to more than"),
}


@pytest.mark.parametrize(("change", "said"), DIRECTORIES.values(), ids=DIRECTORIES)
def test_a_hostile_directory_of_a_zip_is_refused_at_once(
    tmp_path: Path, encoded: bytes, change: Callable[[zipfile.ZipFile], None], said: str
) -> None:
    write_zip(tmp_path / "evil.zip", encoded, change)
    started = time.monotonic()
    with pytest.raises(DatasetError, match=said):
        read(tmp_path / "evil.zip")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize(
    "names", [("a/0.png", "b/0.png"), ("a/0", "b/0"), (".nin-edge", "a/0.png")]
)
def test_a_zip_that_is_unpacked_without_a_bound_is_refused(
    tmp_path: Path, encoded: bytes, method: int, names: tuple[str, str]
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name in names:
            archive.writestr(name, encoded)
    with pytest.raises(DatasetError, match=rf"compressed by method {method}, expected deflate"):
        read(tmp_path / "a.zip")

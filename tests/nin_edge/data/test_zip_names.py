"""Zips made on other machines: backslashes between folders, names in the machine's encoding."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from zipfile import ZipInfo

import pytest

from nin_edge.data import DatasetError, open_dataset
from nin_edge.data.zip_names import member_names


def undeclared(name: str, encoding: str, *, system: int = 0) -> ZipInfo:
    """A member as zipfile reads it where the archive does not say that names are UTF-8."""
    member = ZipInfo(name.encode(encoding).decode("cp437"))
    member.create_system = system
    return member


@pytest.mark.parametrize(
    "names",
    [
        ["photos\\cat\\1.jpg", "photos\\dog\\1.jpg"],
        ["photos\\", "photos\\cat\\", "photos\\cat\\1.jpg"],
    ],
)
@pytest.mark.parametrize("system", [0, 3])
def test_backslashes_separate_folders(names: list[str], system: int) -> None:
    members = [undeclared(name, "ascii", system=system) for name in names]
    assert member_names(members) == ([name.replace("\\", "/") for name in names], None)


def test_a_backslash_in_a_name_from_unix_is_none() -> None:
    members = [undeclared(name, "ascii", system=3) for name in ("AC\\DC/1.jpg", "b/1.jpg")]
    assert member_names(members)[0] == ["AC\\DC/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (["été/1.jpg", "Öl/1.jpg", "NIÑO/1.jpg"], "cp437"),
        (["été/1.jpg", "Ärger/1.jpg"], "cp1252"),
        (["São Paulo/1.jpg", "maçã/1.jpg"], "cp850"),
        (["koty żółte/1.jpg"], "cp852"),
        (["кошка\\1.jpg", "Собака\\Фото 2.jpg"], "cp866"),
        (["猫/1.jpg", "犬/1.jpg", "ソフト/IMG表.jpg"], "cp932"),
        (["猫/1.jpg", "狗/1.jpg", "苹果/照片\uff082\uff09.jpg"], "gbk"),
    ],
)
def test_an_encoding_is_guessed_by_its_script(names: list[str], encoding: str) -> None:
    members = [undeclared(name, encoding) for name in (*names, "ascii/1.jpg")]
    expected = [name.replace("\\", "/") for name in (*names, "ascii/1.jpg")]
    assert member_names(members) == (expected, encoding)


@pytest.mark.parametrize("name", ["été/1.jpg", "猫/1.jpg", "e\u0301/1.jpg", "кошка \u2013 2/1.jpg"])
def test_utf_8_is_known_without_its_flag(name: str) -> None:
    assert member_names([undeclared(name, "utf-8", system=3)]) == ([name], None)


def test_a_name_of_no_script_stays_what_the_format_says() -> None:
    name = b"\xfe\xff\x81/1.jpg".decode("cp437")
    assert member_names([ZipInfo(name)]) == ([name], "cp437")


def test_the_unicode_path_of_info_zip_counts() -> None:
    member = undeclared("????/1.jpg", "ascii")
    name = "кошка/1.jpg".encode()
    crc = zlib.crc32(b"????/1.jpg").to_bytes(4, "little")
    for data, expected in ((crc, "кошка/1.jpg"), (b"abcd", "????/1.jpg")):
        field = b"\x01" + data + name
        member.extra = b"\x75\x70" + len(field).to_bytes(2, "little") + field
        assert member_names([member]) == ([expected], None)


def test_a_zip_from_windows_is_read(
    tmp_path: Path, encoded: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for label in ("AAAAA", "BBBBBB"):  # replaced by as many bytes below
            for index in range(3):
                archive.writestr(f"photos\\{label}\\{index}.png", encoded)
    data = path.read_bytes().replace(b"AAAAA", "кошка".encode("cp866"))
    path.write_bytes(data.replace(b"BBBBBB", "собака".encode("cp866")))
    for _ in range(2):
        dataset = open_dataset(path, size=16)
        assert dataset.labels == ("кошка", "собака")
        assert len(dataset.names) == 6
    (record,) = caplog.records
    assert "read as cp866: photos/кошка/0.png, " in record.getMessage()


@pytest.mark.parametrize("name", ["..\\x.png", "\\x.png", "a\\..\\..\\x.png"])
def test_backslashes_lead_nowhere(tmp_path: Path, encoded: bytes, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for member in ("a\\0.png", "b\\0.png", name):
            archive.writestr(member, encoded)
    with pytest.raises(DatasetError, match="outside the archive; refused"):
        open_dataset(tmp_path / "evil.zip", size=16)

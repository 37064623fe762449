"""Zips made on other machines: backslashes between folders, names in the machine's encoding."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipInfo

import pytest

from nin_edge.data import DatasetError, Location, locate, open_dataset
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
    found = member_names(members)
    assert found.paths == tuple(name.replace("\\", "/") for name in names)
    assert found.guessed is None


def test_a_backslash_in_a_name_from_unix_is_none() -> None:
    members = [undeclared(name, "ascii", system=3) for name in ("AC\\DC/1.jpg", "b/1.jpg")]
    assert member_names(members).paths == ("AC\\DC/1.jpg", "b/1.jpg")


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (["été/1.jpg", "Öl/1.jpg", "NIÑO/1.jpg"], "cp437"),
        (["été/1.jpg", "Ärger/1.jpg"], "cp1252"),
        (["São Paulo/1.jpg", "maçã/1.jpg"], "cp850"),
        (["koty żółte/1.jpg"], "cp852"),
        (["кошка\\1.jpg", "Собака\\Фото 2.jpg"], "cp866"),
        (["猫/1.jpg", "犬/1.jpg", "ソフト/IMG表.jpg"], "cp932"),
        (["ネコ/1.jpg", "イヌ/1.jpg"], "cp932"),
        (["猫/1.jpg", "狗/1.jpg", "苹果/照片\uff082\uff09.jpg"], "gbk"),
        (["猫/1.jpg", "狗/1.jpg", "鸟/1.jpg"], "gbk"),
        (["汽车/1.jpg", "镕/1.jpg", "新建文件夹/1.jpg"], "gbk"),
        (["貓/1.jpg", "狗/1.jpg", "鳥/照片.jpg"], "cp950"),
        (["測試/圖片/1.jpg", "訓練/1.jpg"], "cp950"),
        (["고양이\\1.jpg", "강아지\\1.jpg"], "cp949"),
        (["사진\\고양이\\1.jpg", "사진\\햏\\1.jpg"], "cp949"),
        (["γάτα/1.jpg", "σκύλος/1.jpg"], "cp737"),
    ],
)
def test_an_encoding_is_guessed_by_its_script(names: list[str], encoding: str) -> None:
    members = [undeclared(name, encoding) for name in (*names, "ascii/1.jpg")]
    expected = [name.replace("\\", "/") for name in (*names, "ascii/1.jpg")]
    found = member_names(members)
    assert (found.paths, found.guessed) == (tuple(expected), encoding)


@pytest.mark.parametrize(
    ("names", "encoding"),
    [(["개/1.jpg", "새/1.jpg"], "cp949"), (["חתול/1.jpg", "כלב/1.jpg"], "cp862")],
)
def test_other_encodings_that_fit_are_listed_and_one_can_be_named(
    names: list[str], encoding: str
) -> None:
    members = [undeclared(name, encoding) for name in names]
    found = member_names(members)
    assert found.guessed != encoding
    assert found.others[encoding] == names[0]
    named = member_names(members, encoding)
    assert (named.paths, named.guessed) == (tuple(names), None)


@pytest.mark.parametrize("name", ["été/1.jpg", "猫/1.jpg", "e\u0301/1.jpg", "кошка \u2013 2/1.jpg"])
def test_utf_8_is_known_without_its_flag(name: str) -> None:
    found = member_names([undeclared(name, "utf-8", system=3)])
    assert (found.paths, found.guessed) == ((name,), None)


def test_a_name_of_no_script_stays_what_the_format_says() -> None:
    name = b"\xfe\xff\x81/1.jpg".decode("cp437")
    found = member_names([ZipInfo(name)])
    assert (found.paths, found.guessed) == ((name,), "cp437")


def test_the_unicode_path_of_info_zip_counts() -> None:
    member = undeclared("????/1.jpg", "ascii")
    name = "кошка/1.jpg".encode()
    crc = zlib.crc32(b"????/1.jpg").to_bytes(4, "little")
    for data, expected in ((crc, "кошка/1.jpg"), (b"abcd", "????/1.jpg")):
        field = b"\x01" + data + name
        member.extra = b"\x75\x70" + len(field).to_bytes(2, "little") + field
        assert member_names([member]).paths == (expected,)


@pytest.fixture
def windows_zip(tmp_path: Path, encoded: bytes) -> Callable[[str, str, str], Path]:
    """Writes a zip of two classes whose names are in a code page that it does not state."""

    def write(one: str, other: str, encoding: str) -> Path:
        path = tmp_path / "photos.zip"
        raw = [label.encode(encoding) for label in (one, other)]
        placeholders = ["A" * len(raw[0]), "B" * len(raw[1])]  # replaced by as many bytes below
        with zipfile.ZipFile(path, "w") as archive:
            for label in placeholders:
                for index in range(3):
                    archive.writestr(f"photos\\{label}\\{index}.png", encoded)
        data = path.read_bytes()
        for label, placeholder in zip(raw, placeholders, strict=True):
            data = data.replace(b"\\" + placeholder.encode() + b"\\", b"\\" + label + b"\\")
        path.write_bytes(data)
        return path

    return write


def test_a_zip_from_windows_is_read(
    windows_zip: Callable[[str, str, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = windows_zip("кошка", "собака", "cp866")
    for _ in range(2):
        dataset = open_dataset(path, size=16)
        assert dataset.labels == ("кошка", "собака")
        assert len(dataset.names) == 6
    (record,) = caplog.records
    assert "read as cp866: photos/кошка/0.png, " in record.getMessage()
    assert "--zip-encoding names another (photos/ςχϋςι/0.png if cp737)" in record.getMessage()


@pytest.mark.parametrize("labels", [("개", "새"), ("꿩", "뱀")])
def test_the_encoding_of_a_zip_can_be_named(
    windows_zip: Callable[[str, str, str], Path],
    caplog: pytest.LogCaptureFixture,
    labels: tuple[str, str],
) -> None:
    path = windows_zip(*labels, "cp949")
    guessed = open_dataset(path, size=16)
    assert guessed.labels != labels
    assert f"photos/{labels[0]}/0.png if cp949" in caplog.text
    caplog.clear()
    location = locate(path, zip_encoding="cp949")
    assert Location.from_json(location.to_json()) == location
    for _ in range(2):  # decoded anew, then from the cache
        assert open_dataset(location, size=16).labels == labels
    assert not caplog.records


def test_an_encoding_that_cannot_be_is_refused(
    windows_zip: Callable[[str, str, str], Path], pair: Path
) -> None:
    path = windows_zip("猫", "犬", "cp932")
    for encoding in ("klingon", "rot13", "base64", ""):
        with pytest.raises(DatasetError, match=f"zip_encoding is '{encoding}': expected"):
            locate(path, zip_encoding=encoding)
    with pytest.raises(DatasetError, match=r"the name .* is not utf-8, expected the encoding"):
        open_dataset(Location(path, "photos", None, zip_encoding="utf-8"), size=16)
    with pytest.raises(DatasetError, match="pair: not a zip, expected one with zip_encoding cp949"):
        locate(pair, zip_encoding="cp949")


@pytest.mark.parametrize("name", ["..\\x.png", "\\x.png", "a\\..\\..\\x.png"])
def test_backslashes_lead_nowhere(tmp_path: Path, encoded: bytes, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for member in ("a\\0.png", "b\\0.png", name):
            archive.writestr(member, encoded)
    with pytest.raises(DatasetError, match="outside the archive; refused"):
        open_dataset(tmp_path / "evil.zip", size=16)

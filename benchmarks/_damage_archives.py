"""Hostile tar and zip archives for `benchmarks.damage`: small files that claim or become much."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Final

from benchmarks._damage_inputs import PHOTO, Item

_PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}
_BOMB: Final = 600 << 20  # bytes of zeros: more than any member may have


def hostile_archives() -> Iterator[Item]:
    """Every trick in every form of archive; the last part of a name is the form."""
    for trick, tail in _tar_tails().items():
        for form, packed in _PACKERS.items():
            yield f"{trick}, {form}", packed(_tar_start() + tail + bytes(1024))
    for form, packed in _PACKERS.items():
        if form != "tar":
            zeros = _header("b/1.png", _BOMB) + bytes(_BOMB)
            yield f"a member of zeros, {form}", packed(_tar_start() + zeros + bytes(1024))
    for trick, make in _ZIPS.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/0.jpg", PHOTO.read_bytes())
            make(archive)
        yield f"{trick}, zip", buffer.getvalue()


def _header(name: str, size: int, member_type: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, member_type, link
    return member.tobuf(tarfile.GNU_FORMAT)


def _tar_start() -> bytes:
    photo = PHOTO.read_bytes()
    padded = photo.ljust(-(-len(photo) // 512) * 512, b"\0")
    return b"".join(_header(f"{label}/0.jpg", len(photo)) + padded for label in "ab")


def _extended(data: bytes, member_type: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header with its data."""
    return _header("x", len(data), member_type) + data + bytes(-len(data) % 512)


def _pax(*records: str, member_type: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header of records such as `size=5`."""
    return _extended(b"".join(map(_record, records)), member_type)


def _record(text: str) -> bytes:
    rest = f" {text}\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return f"{length}{rest}".encode()


def _tar_tails() -> dict[str, bytes]:
    """What follows two good members."""
    huge, empty = 1 << 44, _header("b/1.png", 0)
    long_name, megabyte = tarfile.GNUTYPE_LONGNAME, "a=" + "b" * 999_000
    sparse = "GNU.sparse.major=1", "GNU.sparse.minor=0"
    return {
        "a member of 2^44 bytes": _header("b/1.png", huge),
        "a member of 2^44 bytes by pax": _pax(f"size={huge}") + _header("b/1.png", 0),
        "a negative size by pax": _pax("size=-512") + _header("b/1.png", 0),
        "a long name of 2^44 bytes": _header("x", huge, tarfile.GNUTYPE_LONGNAME),
        "a long link of 2^44 bytes": _header("x", huge, tarfile.GNUTYPE_LONGLINK),
        "a pax header of 2^44 bytes": _header("x", huge, tarfile.XHDTYPE),
        "a global header of 2^44 bytes": _header("x", huge, tarfile.XGLTYPE),
        "a sparse member": _header("b/1.png", 512, tarfile.GNUTYPE_SPARSE) + bytes(512),
        "a sparse member by pax": _pax("GNU.sparse.size=99999999999") + _header("b/1.png", 0),
        "a sparse map by pax": _pax("GNU.sparse.map=" + "1," * 100_000 + "1") + empty,
        "an endless sparse map": _pax(*sparse)
        + _header("b/1.png", 4 << 20)
        + b"999999999\n".ljust(4 << 20, b"1"),
        "25,000 empty members": empty * 25_000,
        "25,000 folders": b"".join(_header(f"c{number}/1.png", 0) for number in range(25_000)),
        "13 MB of attributes": (_pax(megabyte) + empty) * 13,
        "13 MB of global attributes": _pax(megabyte, member_type=tarfile.XGLTYPE) * 13 + empty,
        "global attributes and many members": _pax(
            *(f"key {number}=" for number in range(5_000)), member_type=tarfile.XGLTYPE
        )
        + (_pax("a=b") + empty) * 10_000,
        "digits in place of attributes": _extended(b"1" * 999_000) + empty,
        "an attribute of many digits": _pax("comment=" + "1" * 999_000) + empty,
        "attributes in each other": _extended(b"2 " * 499_000 + b"=") + empty,
        "a chain of long names": _extended(b"b/1.png", long_name) * 900 + empty,
        "a name of 1 MB": _extended(b"b/" + b"n" * 999_000, long_name) + empty,
        "a path of 300,000 folders": _extended(b"b/" * 300_000, long_name) + empty,
        "a name with escape sequences": _header("b/\x1b]0;x\x07\n.png", 0),
        "our mark with deep JSON": _header("b/.nin-edge", 100_000)
        + (b"[" * 100_000).ljust(100_352),
        "a path up": _header("../x.png", 0),
        "an absolute path": _header("/x.png", 0),
        "a symbolic link": _header("b/1.png", 0, tarfile.SYMTYPE, "/etc/passwd"),
        "a hard link": _header("b/1.png", 0, tarfile.LNKTYPE, "a/0.jpg"),
        "a device": _header("b/1.png", 0, tarfile.CHRTYPE),
        "a pipe": _header("b/1.png", 0, tarfile.FIFOTYPE),
        "a torn header": _header("b/1.png", 0)[:300],
        "an altered header": _header("b/1.png", 0).replace(b"b/1", b"c/1"),
    }


def _bomb(archive: zipfile.ZipFile, method: int = zipfile.ZIP_DEFLATED) -> None:
    member = zipfile.ZipInfo("b/1.png")
    member.compress_type = method
    with archive.open(member, "w") as file:
        for _ in range(_BOMB >> 20):
            file.write(bytes(1 << 20))


def _claim(archive: zipfile.ZipFile) -> None:
    """A member whose entry claims 2^40 bytes."""
    archive.writestr("b/1.png", b"x")
    archive.filelist[-1].file_size = 1 << 40


def _link(archive: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("b/link.png")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    archive.writestr(member, "/etc/passwd")


def _overlap(archive: zipfile.ZipFile) -> None:
    """Ten thousand entries of one and the same member."""
    archive.writestr("b/1.png", bytes(200 << 20))
    last = archive.filelist[-1]
    for number in range(10_000):
        again = zipfile.ZipInfo(f"b/{number}.png")
        for name in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
            setattr(again, name, getattr(last, name))
        archive.filelist.append(again)


def _entries(count: int, **fields: object) -> Callable[[zipfile.ZipFile], None]:
    """Entries of the first member under other names, with some fields changed."""

    def change(archive: zipfile.ZipFile) -> None:
        for number in range(count):
            entry = copy.copy(archive.filelist[0])
            entry.filename = f"b/{number}.png"
            for name, value in fields.items():
                setattr(entry, name, value)
            archive.filelist.append(entry)

    return change


_ZIPS: Final[dict[str, Callable[[zipfile.ZipFile], None]]] = {
    "a member of zeros": _bomb,
    "a member of zeros by bzip2": lambda archive: _bomb(archive, zipfile.ZIP_BZIP2),
    "a member of zeros by lzma": lambda archive: _bomb(archive, zipfile.ZIP_LZMA),
    "a member of 2^40 bytes": _claim,
    "entries that overlap": _overlap,
    "a directory of 300,000 entries": _entries(300_000),
    "15,000 entries of one member": _entries(15_000),
    "extra fields of 60 kB": _entries(500, extra=b"\x99\x99\0\0" * 15_000),
    "extra fields of 4 kB": _entries(15_000, extra=b"\x99\x99\0\0" * 1_000),
    "comments of 60 kB": _entries(500, comment=b"c" * 60_000),
    "names of 60 kB": _entries(1, filename="b/" + "n" * 60_000),
    "a path of 30,000 folders": _entries(1, filename="b/" * 30_000),
    "an offset of 2^62": _entries(1, header_offset=1 << 62),
    "sizes of 2^62": _entries(1, file_size=1 << 62, compress_size=1 << 62),
    "a symbolic link": _link,
    "a path up": lambda archive: archive.writestr("../x.png", b"x"),
    "a Windows path up": lambda archive: archive.writestr("..\\x.png", b"x"),
    "an absolute path": lambda archive: archive.writestr("/x.png", b"x"),
}

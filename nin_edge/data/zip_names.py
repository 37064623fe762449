"""Names in a zip as their maker meant them: the encoding, and the separator of folders.

A zip says of each name whether it is UTF-8. Where it does not, the name has the encoding of the
machine that made the archive: UTF-8 all the same on a Mac, a code page of its country on Windows.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from typing import Final
from zipfile import ZipInfo

_UTF8_FLAG: Final = 0x800
_UNICODE_PATH: Final = 0x7075  # Info-ZIP's extra field: the name again, in UTF-8
_UNIX: Final = 3
_DECLARED: Final = "cp437"  # what the format calls for, and what zipfile decodes by
_EAST_ASIAN: Final = ("CJK", "FULLWIDTH", "IDEOGRAPHIC")
_CODE_PAGES: Final = {  # of Windows, and the scripts that names in it are written in
    _DECLARED: ("LATIN",),
    "cp850": ("LATIN",),
    "cp1252": ("LATIN",),
    "cp852": ("LATIN",),
    "cp866": ("CYRILLIC",),
    "cp932": (*_EAST_ASIAN, "HIRAGANA", "KATAKANA"),
    "gbk": _EAST_ASIAN,
    "euc_kr": ("HANGUL",),
}


def member_names(members: Sequence[ZipInfo]) -> tuple[list[str], str | None]:
    """The path of each member, with slashes; and the encoding, where it had to be guessed."""
    names, guessed = _decoded(members)
    slashes = any("/" in name for name in names)
    return [
        name.replace("\\", "/") if member.create_system != _UNIX or not slashes else name
        for name, member in zip(names, members, strict=True)
    ], guessed


def _decoded(members: Sequence[ZipInfo]) -> tuple[list[str], str | None]:
    names = [_unicode_path(member) or member.filename for member in members]
    undeclared = [
        place
        for place, (name, member) in enumerate(zip(names, members, strict=True))
        if name == member.filename and not (member.flag_bits & _UTF8_FLAG or name.isascii())
    ]
    raw = [names[place].encode(_DECLARED, "replace") for place in undeclared]
    encoding = next((one for one in ("utf-8", *_CODE_PAGES) if _is_likely(raw, one)), _DECLARED)
    for place, name in zip(undeclared, raw, strict=True):
        names[place] = name.decode(encoding)
    return names, encoding if undeclared and encoding != "utf-8" else None


def _unicode_path(member: ZipInfo) -> str | None:
    """The name in Info-ZIP's extra field, if it is there and of this name."""
    extra, place = member.extra, 0
    while place + 4 <= len(extra):
        number, length = struct.unpack_from("<HH", extra, place)
        data = extra[place + 4 : place + 4 + length]
        place += 4 + length
        if number == _UNICODE_PATH and len(data) > 5 and data[0] == 1:
            own = zlib.crc32(member.orig_filename.encode(_DECLARED, "replace"))
            if struct.unpack("<I", data[1:5])[0] == own:
                return data[5:].decode("utf-8", "replace")
    return None


def _is_likely(raw: Sequence[bytes], encoding: str) -> bool:
    """Whether names in an encoding are words of its script."""
    try:
        words = [word for name in raw for word in re.split(r"[\W\d_]+", name.decode(encoding))]
        text = "".join(name.decode(encoding) for name in raw)
    except UnicodeDecodeError:
        return False
    if encoding == "utf-8":
        return True
    scripts = _CODE_PAGES[encoding]
    foreign = {char for char in text if not char.isascii()}
    if not all(unicodedata.name(char, "").startswith(scripts) for char in foreign):
        return False
    return all(_is_word(word, scripts) for word in words if not word.isascii())


def _is_word(word: str, scripts: tuple[str, ...]) -> bool:
    """Whether letters look like a word: of one script, with capitals where they belong."""
    if "LATIN" in scripts:
        return word in (word.lower(), word.upper(), word.capitalize())
    return "CYRILLIC" not in scripts or not any(char.isascii() for char in word)

"""Names in a zip as their maker meant them: the encoding, and the separator of folders.

A zip says of each name whether it is UTF-8. Where it does not, the name has the encoding of the
machine that made the archive: UTF-8 all the same on a Mac, a code page of its country on Windows.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zipfile import ZipInfo

_UTF8_FLAG: Final = 0x800
_UNICODE_PATH: Final = 0x7075  # Info-ZIP's extra field: the name again, in UTF-8
_UNIX: Final = 3
_DECLARED: Final = "cp437"  # what the format calls for, and what zipfile decodes by
_HAN: Final = ("CJK", "FULLWIDTH", "IDEOGRAPHIC")
_CODE_PAGES: Final = {  # of Windows, and the scripts that names in it are written in
    _DECLARED: ("LATIN",),
    "cp850": ("LATIN",),
    "cp1252": ("LATIN",),
    "cp852": ("LATIN",),
    "cp866": ("CYRILLIC",),
    "cp737": ("GREEK",),
    "cp862": ("HEBREW",),
    "cp932": (*_HAN, "HIRAGANA", "KATAKANA"),
    "gbk": _HAN,
    "cp950": _HAN,
    "cp949": ("HANGUL SYLLABLE",),
}
_COMMON: Final = {  # where the characters of most words are
    "gbk": ("gb2312", 0xD7),
    "cp950": ("big5", 0xC6),
    "cp949": ("euc_kr", 0xC8),
}
"""An encoding of the characters, and the first byte of the last of them."""

_COMMON_SHARE: Final = 0.8
_TELLING: Final = 4  # different syllables of Korean; Chinese seldom keeps to their bytes so long


@dataclass(frozen=True)
class MemberNames:
    """The paths in a zip, and how they were read."""

    paths: tuple[str, ...]
    """The path of each member, with slashes."""
    guessed: str | None
    """The encoding, where it had to be guessed."""
    others: Mapping[str, str]
    """Other encodings that fit as well, and a name as it would be in each."""


def member_names(members: Sequence[ZipInfo], encoding: str | None = None) -> MemberNames:
    """Read the paths of a zip.

    Args:
        members: all of them.
        encoding: of the names whose encoding the zip does not state; guessed if None.

    Raises:
        UnicodeDecodeError: a name is not in the encoding.
    """
    names = [_unicode_path(member) or member.filename for member in members]
    undeclared = [
        place
        for place, (name, member) in enumerate(zip(names, members, strict=True))
        if name == member.filename and not (member.flag_bits & _UTF8_FLAG or name.isascii())
    ]
    raw = [names[place].encode(_DECLARED, "replace") for place in undeclared]
    fitting = [encoding] if encoding else _fitting(raw)
    for place, name in zip(undeclared, raw, strict=True):
        names[place] = name.decode(fitting[0])
    slashes = any("/" in name for name in names)
    return MemberNames(
        paths=tuple(
            name.replace("\\", "/") if member.create_system != _UNIX or not slashes else name
            for name, member in zip(names, members, strict=True)
        ),
        guessed=fitting[0] if undeclared and not encoding and fitting[0] != "utf-8" else None,
        others={other: raw[0].decode(other).replace("\\", "/") for other in fitting[1:]},
    )


def _fitting(raw: Sequence[bytes]) -> list[str]:
    """The encodings that names can be in, the likeliest first."""
    fitting = [one for one in ("utf-8", *_CODE_PAGES) if _is_likely(raw, one)]
    if "utf-8" in fitting or not fitting:
        return fitting[:1] or [_DECLARED]
    common = [one for one in fitting if _is_common(raw, one)]
    if "cp949" in common:
        syllables = {char for name in raw for char in name.decode("cp949") if not char.isascii()}
        if len(syllables) >= _TELLING:
            common.insert(0, "cp949")
    best = [*common, *fitting][0]
    if "LATIN" in _CODE_PAGES[best]:
        return [best]  # the letters of other scripts would stand among those of ASCII
    return list(dict.fromkeys([best, *common, *fitting]))


def _is_common(raw: Sequence[bytes], wide: str) -> bool:
    """Whether names in an encoding of East Asia have few rare characters."""
    if wide not in _COMMON:
        return True
    encoding, last = _COMMON[wide]
    chars = {char for name in raw for char in name.decode(wide) if not char.isascii()}
    encoded = [char.encode(encoding, "ignore") for char in chars]
    common = sum(len(code) == 2 and code[0] <= last for code in encoded)
    return common >= _COMMON_SHARE * len(chars)


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
    if not {"LATIN", "CYRILLIC", "GREEK"}.isdisjoint(scripts) and word not in (
        *(word.lower(), word.upper(), word.capitalize()),
    ):
        return False
    return not {"LATIN", *_HAN}.isdisjoint(scripts) or not any(char.isascii() for char in word)

"""The system's fonts: one that has the characters of a label that common fonts lack."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from PIL import ImageFont

_SUFFIXES: Final = (".ttf", ".ttc", ".otf")
_NONCHARACTER: Final = "\U0010ffff"  # drawn as the font draws what it lacks
_CUTS: Final = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black")


@lru_cache(maxsize=64)
def find_font(text: str) -> Path | None:
    """A font of this system that has all characters of a text; None if there is none.

    Regular fonts without serifs come first. The first search reads many files.
    """
    wanted = {char for char in text if not char.isspace()}
    return next((path for path in _font_files() if _has(path, wanted)), None)


def _font_files() -> list[Path]:
    files = {
        Path(folder, name)
        for top in _font_folders()
        for folder, _, names in os.walk(top)
        for name in names
        if name.lower().endswith(_SUFFIXES)
    }
    return sorted(files, key=lambda path: (_plainness(path.name.lower()), path))


def _font_folders() -> Iterator[Path]:
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts")
        yield Path(os.environ.get("LOCALAPPDATA", ""), "Microsoft", "Windows", "Fonts")
        return
    home = os.environ.get("HOME", "")
    if sys.platform == "darwin":
        yield from (Path(top, "Library", "Fonts") for top in ("/System", "/", home) if top)
        return
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or (home and f"{home}/.local/share")
    yield from (Path(top, "fonts") for top in (own, *data.split(":")) if top)
    if home:
        yield Path(home, ".fonts")


def _plainness(name: str) -> int:
    """Rank of a font file by its name: 0 for a regular one without serifs."""
    return sum(cut in name.replace("sansserif", "") for cut in _CUTS)


def _has(path: Path, wanted: set[str]) -> bool:
    try:
        font = ImageFont.truetype(str(path), 20, layout_engine=ImageFont.Layout.BASIC)
        missing = _drawn(font, _NONCHARACTER)
        return all(_drawn(font, char) != missing for char in wanted)
    except Exception:  # a damaged font, one of pictures alone, or a Pillow without FreeType
        return False


def _drawn(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(char)
    return mask.size, bytes(mask)

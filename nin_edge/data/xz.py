"""Decompression of xz in bounded memory: its header names the size of a dictionary, up to 4 GiB."""

from __future__ import annotations

import lzma
from typing import BinaryIO, Final, Self

MAX_DICTIONARY: Final = 256 << 20
"""Largest dictionary in bytes; `xz -9` has one of 64 MiB."""

_MEMORY: Final = MAX_DICTIONARY + (32 << 20)
_BLOCK: Final = 1 << 18


class XzReader:
    """A file's unpacked bytes."""

    def __init__(self, packed: BinaryIO) -> None:
        """Take an open file of one or several xz streams."""
        self._packed = packed
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def read(self, size: int) -> bytes:
        """Up to that many bytes; none at the end.

        Raises:
            lzma.LZMAError, EOFError: the file is damaged or truncated, or needs more memory.
        """
        while True:
            rest = b""
            if self._stream.eof:  # streams may follow, with zeros between them
                rest = self._stream.unused_data.lstrip(b"\0")
                while not rest:
                    if not (block := self._packed.read(_BLOCK)):
                        return b""
                    rest = block.lstrip(b"\0")
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
            elif self._stream.needs_input and not (rest := self._packed.read(_BLOCK)):
                raise EOFError("the file ends within its compressed data")
            if data := self._stream.decompress(rest, size):
                return data

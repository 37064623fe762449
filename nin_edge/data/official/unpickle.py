"""The pickles of CIFAR's python archives, read without running anything that they name.

A pickle is a program: it may name any function and have it called. These hold dictionaries, lists,
numbers, texts and uint8 arrays. The four names that make an array are mapped to plain records here,
any other is refused, and the arrays are made from the records afterwards. Before it is run, the
program is read: nine bytes of it can claim any amount of memory.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nin_edge.data.archives import MAX_MEMBER

_OPCODES: Final = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    )
)
_PUTS: Final = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS: Final = ("GET", "BINGET", "LONG_BINGET")
_SHARED: Final = frozenset(
    (
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT", "GLOBAL", "STACK_GLOBAL", "REDUCE"),
    )
)
"""What makes the values that may be used again: not tuples, see `_Memo`."""

_INTEGERS: Final = ("INT", "BININT", "LONG", "LONG1")
_MAX_INTEGER: Final = 1 << 32  # larger ones can be chosen so that a dictionary takes hours
_MAX_OPCODES: Final = 500_000  # CIFAR-100's training images take 200,000
_MAX_TUPLES: Final = 1_000  # an array has a few; deep ones overflow the stack when they are hashed
_MAX_SIDES: Final = 4  # of an array's shape; the product of millions of long numbers takes minutes


class _StoredArray:
    """Record of an array: (version, shape, dtype, whether in Fortran's order, bytes)."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _StoredType:
    """Record of an array's type: its code, such as `u1`."""

    def __init__(self, code: Any, *options: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Ignored: nothing in it matters to single bytes."""


def _reconstruct(*arguments: Any) -> _StoredArray:
    """In place of NumPy's function of this name, which makes an empty array to be filled."""
    return _StoredArray()


_NAMES: Final[dict[tuple[str, str], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # as NumPy 2 writes it
    ("numpy", "ndarray"): _StoredArray,
    ("numpy", "dtype"): _StoredType,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """The record for a name in the pickle.

        Raises:
            ValueError: it is none of the four names; it is neither imported nor called.
        """
        try:
            return _NAMES[module_name, global_name]
        except KeyError:
            raise ValueError(
                f"it names the foreign object {f'{module_name}.{global_name}'!r}; refused"
            ) from None


def load(data: bytes) -> dict[str, Any]:
    """The dictionary in a pickle; its keys are str, other texts in it bytes or str.

    Raises:
        ValueError: it is broken, is of something else, or names anything but an array.
    """
    try:
        _scan(data)
        entries = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except ValueError:
        raise
    except Exception as error:  # damaged bytes can surface as almost anything
        raise ValueError(f"a broken pickle ({error or type(error).__name__})") from error
    if not isinstance(entries, dict):
        raise ValueError(f"a pickle of {type(entries).__name__}, expected a dictionary")
    return {text(key): value for key, value in entries.items()}


class _Memo:
    """Where the values are stored that a pickle uses again.

    It is an array as long as the largest index, so an index may only be the next one. Tuples of a
    tuple that is used twice, and so on, are hashed in a time that doubles with each: only values
    that have no such depth, or are never hashed, may be used again.
    """

    def __init__(self) -> None:
        self._stored: dict[int, bool] = {}  # index -> whether it may be used again

    def follow(self, name: str, argument: Any, previous: str) -> None:
        """Take the next opcode, its argument, and the opcode before it.

        Raises:
            ValueError: it stores far beyond the end, or uses a value again that it may not.
        """
        count = len(self._stored)
        if name in _PUTS:
            index = count if name == "MEMOIZE" else argument
            if not isinstance(index, int) or not 0 <= index <= count + 1:
                raise ValueError(
                    f"its pickle stores a value at {index}, expected at most {count + 1}"
                )
            self._stored[index] = previous in _SHARED
        elif name in _GETS and not self._stored.get(argument):
            raise ValueError(
                f"its pickle uses value {argument} again, expected a text, list, dictionary or "
                "array there"
            )


def _scan(data: bytes) -> None:
    """Read the opcodes without running them; lengths beyond the data are found by `pickletools`.

    Raises:
        ValueError: one of them is not for data, or there are too many.
    """
    memo, tuples, previous = _Memo(), 0, ""
    for count, (opcode, argument, _) in enumerate(_opcodes(data)):
        name = opcode.name
        if name not in _OPCODES:
            raise ValueError(f"its pickle has the opcode {name}; refused")
        memo.follow(name, argument, previous)
        if name in _INTEGERS and abs(argument) > _MAX_INTEGER:
            raise ValueError(f"its pickle has an integer beyond {_MAX_INTEGER:,}")
        previous = name
        tuples += "TUPLE" in name
        if count >= _MAX_OPCODES or tuples > _MAX_TUPLES:
            raise ValueError(
                f"its pickle has more than {_MAX_OPCODES:,} opcodes or {_MAX_TUPLES:,} tuples"
            )


def _opcodes(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """The opcodes with their arguments and places."""
    try:
        yield from pickletools.genops(data)
    except Exception as error:
        raise ValueError(f"a broken pickle ({error})") from error


def text(value: Any) -> str:
    """A text of the pickle as str: Python 2's come as bytes.

    Raises:
        ValueError: it is not text.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    raise ValueError(f"{type(value).__name__} in its pickle, expected text")


def array(value: Any) -> NDArray[np.uint8]:
    """A uint8 array of the pickle.

    Raises:
        ValueError: it is something else, or its length does not match its shape.
    """
    state = value.state if isinstance(value, _StoredArray) else None
    if not (isinstance(state, tuple) and len(state) == 5):
        raise ValueError(f"{type(value).__name__} in its pickle, expected an array")
    _, shape, dtype, fortran, data = state
    if not (isinstance(dtype, _StoredType) and text(dtype.code) in ("u1", "|u1")):
        raise ValueError("an array in its pickle is not of uint8")
    if not (
        isinstance(shape, tuple)
        and len(shape) <= _MAX_SIDES
        and all(isinstance(side, int) and 0 <= side <= MAX_MEMBER for side in shape)
        and isinstance(data, bytes)
        and len(data) == math.prod(shape)
    ):
        raise ValueError("the length of an array in its pickle does not match its shape")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")

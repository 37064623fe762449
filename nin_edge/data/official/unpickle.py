"""The pickles of CIFAR's python archives, read without running anything that they name.

A pickle is a program: it may name any function and have it called. These hold dictionaries, lists,
numbers, texts and uint8 arrays. The four names that make an array lead here to plain records of
what is stored, any other is refused, and the arrays are made from the records afterwards.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


class _StoredArray:
    """What a pickle says of an array: (version, shape, dtype, whether Fortran's order, bytes)."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _StoredType:
    """What a pickle says of an array's type: its code, such as `u1`."""

    def __init__(self, code: Any, *options: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Nothing in it matters to single bytes."""


def _reconstruct(*arguments: Any) -> _StoredArray:
    """Stands for NumPy's function of this name, which makes an empty array to be filled."""
    return _StoredArray()


_NAMES: Final[dict[tuple[str, str], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # as NumPy 2 writes it
    ("numpy", "ndarray"): _StoredArray,
    ("numpy", "dtype"): _StoredType,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """What a name in the pickle stands for.

        Raises:
            ValueError: it is none of the four; nothing of it is imported or called.
        """
        try:
            return _NAMES[module_name, global_name]
        except KeyError:
            raise ValueError(
                f"it names the foreign object {f'{module_name}.{global_name}'!r}; refused"
            ) from None


def load(data: bytes) -> dict[str, Any]:
    """The dictionary that a pickle holds, its keys as text, texts in it as bytes or str.

    Raises:
        ValueError: it is broken, holds something else, or names what is no array.
    """
    try:
        found = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except ValueError:
        raise
    except Exception as error:  # damaged bytes can surface as almost anything
        raise ValueError(f"a broken pickle ({error or type(error).__name__})") from error
    if not isinstance(found, dict):
        raise ValueError(f"a pickle of {type(found).__name__}, expected a dictionary")
    return {text(key): value for key, value in found.items()}


def text(value: Any) -> str:
    """A text of the pickle: Python 2's come as bytes.

    Raises:
        ValueError: it is no text.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    raise ValueError(f"{type(value).__name__} in its pickle, expected text")


def array(value: Any) -> NDArray[np.uint8]:
    """A uint8 array of the pickle.

    Raises:
        ValueError: it is none, or not as long as its shape says.
    """
    state = value.state if isinstance(value, _StoredArray) else None
    if not (isinstance(state, tuple) and len(state) == 5):
        raise ValueError(f"{type(value).__name__} in its pickle, expected an array")
    _, shape, kind, fortran, data = state
    if not (isinstance(kind, _StoredType) and text(kind.code) in ("u1", "|u1")):
        raise ValueError("an array in its pickle is not of uint8")
    if not (
        isinstance(shape, tuple)
        and all(isinstance(side, int) and side >= 0 for side in shape)
        and isinstance(data, bytes)
        and len(data) == math.prod(shape)
    ):
        raise ValueError("an array in its pickle is not as long as its shape says")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")

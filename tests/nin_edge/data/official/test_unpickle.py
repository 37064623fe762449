"""No pickle runs anything: every name but the four that make an array is refused."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from nin_edge.data import DatasetError, open_dataset
from nin_edge.data.official import unpickle


class Malicious:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_foreign_object_is_refused_and_nothing_runs(tmp_path: Path, protocol: int) -> None:
    evil = pickle.dumps({"data": Malicious(tmp_path / "ran")}, protocol=protocol)
    with pytest.raises(ValueError, match=r"^it names the foreign object .*mkdir'; refused$"):
        unpickle.load(evil)
    assert not (tmp_path / "ran").exists()
    pickle.loads(evil)  # it would have
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", ["data_batch_2", "batches.meta"])
def test_a_data_set_with_a_foreign_object_is_refused(
    official: Any, tmp_path: Path, cifar10: Any, where: str
) -> None:
    evil = pickle.dumps({"data": Malicious(tmp_path / "ran")})
    folder = official.write(tmp_path / "c", official.python(cifar10) | {where: evil})
    path = official.packed(folder, tmp_path / "c.tar.gz")
    with pytest.raises(DatasetError, match=rf"{where}: it names the foreign object .*mkdir'; ref"):
        open_dataset(path, size=32, workers=1)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(Vprint(1)\ntR.",
        b"cnumpy\nload\n(Vx.npy\ntR.",
        b"cnumpy\nndarray.__init__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.fill\x93.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"Pid\n.",  # a persistent id
    ],
)
def test_no_other_name_is_resolved(opcodes: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"^(it names the foreign|its pickle has the opcode \w+; refused)"
    ):
        unpickle.load(opcodes)


BOMBS = {
    "a memo of 2 GB": (
        b"\x80\x02]r\xff\xff\xff\x07.",
        "stores a value at 134217727, expected at most 1",
    ),
    "a memo by text": (b"]p2000000000\n.", "stores a value at 2000000000"),
    "a negative memo": (b"]p-5\n.", "stores a value at -5"),
    "8 EB of bytes": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "expected"),
    "2 GB of text": (b"\x80\x02X\xff\xff\xff\x7f.", "expected"),
    "a byte array": (b"\x80\x05\x96" + b"\xff" * 5 + b"\0\0\0.", "BYTEARRAY8|expected"),
    "deep tuples as a key": (b"}(" + b")" + b"\x85" * 2000 + b"Nu.", "1,000 tuples"),
    "tuples shared 59 times": (
        b"}(" + b")q\x01" + b"".join(b"h%c\x86q%c" % (at, at + 1) for at in range(1, 60)) + b"Nu.",
        "uses value 1 again",
    ),
    "tuples by MEMOIZE": (b"\x80\x04}()\x94" + b"h\0h\0\x86\x94." * 30, "uses value 0 again"),
    "a tuple stored over a list": (b"]q\0)q\0h\0h\0\x86.", "uses value 0 again"),
    "a tuple behind a frame": (b"\x80\x04)\x95" + bytes(8) + b"\x94h\0.", "uses value 0 again"),
    "a tuple from the stack": (b")]0q\0h\0.", "uses value 0 again"),
    "a value never stored": (b"h\5.", "uses value 5 again"),
    "keys of one hash": (
        b"}(N" + b"".join(b"\x8a\x08" + struct.pack("<q", at * (2**61 - 1)) for at in range(-3, 4)),
        "an integer beyond 4,294,967,296",
    ),
    "an object": (b"(cnumpy\nndarray\no.", "opcode OBJ; refused"),
    "no end": (b"\x80\x02]", "STOP|exhausted"),
}


@pytest.mark.parametrize(("bomb", "said"), BOMBS.values(), ids=BOMBS)
def test_a_few_bytes_claim_no_memory(bomb: bytes, said: str) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=said):
        unpickle.load(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_long_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "_MAX_OPCODES", 100)
    with pytest.raises(ValueError, match="more than 100 opcodes"):
        unpickle.load(pickle.dumps({"a": list(range(200))}))


def test_a_shape_of_many_sides_is_refused_at_once() -> None:
    stored = unpickle._StoredArray()
    stored.state = (1, (2**2000,) * 100_000, unpickle._StoredType("u1"), False, b"")
    with pytest.raises(ValueError, match="does not match its shape"):
        unpickle.array(stored)

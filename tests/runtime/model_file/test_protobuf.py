"""Bytes that protobuf reads and no serialiser writes are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from onnx import ModelProto

from nin_edge_runtime import ModelFileError, read_model
from nin_edge_runtime.model_file.protobuf import VARINT, fields, tag, varint

Resigner = Callable[[bytes], bytes]


def encoded(value: int, padding: int = 0) -> bytes:
    """A varint, with bytes that it does not need."""
    out = bytearray()
    while value > 0x7F or padding:
        padding -= value <= 0x7F
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, payload: bytes) -> bytes:
    return encoded(tag(number)) + encoded(len(payload)) + payload


EVIL = field(5, field(8, b"evil") + b"\x10\x01" + field(13, field(1, b"location")))
"""Of a GraphProto: an initializer with external data."""


class TestEncodings:
    """Bytes that protobuf reads and no serialiser writes: ways to show us another graph than it."""

    @pytest.mark.parametrize(
        ("extra", "said"),
        [
            (field(7, EVIL), "graph twice"),
            (encoded(tag(7), padding=1) + encoded(len(EVIL)) + EVIL, "broken number"),
            (encoded(tag(7)) + encoded(len(EVIL), padding=2) + EVIL, "broken number"),
            (encoded(tag(7) + (1 << 32)) + encoded(len(EVIL)) + EVIL, "field number"),
            (encoded(7 << 3 | 3) + EVIL + encoded(7 << 3 | 4), "wire type 3"),
            (encoded(tag(7, VARINT)) + b"\x01", "field 7 of wire type 0"),
            (encoded(tag(99)) + b"\x00", "field 99"),
            (field(25, b""), "functions"),
            (field(20, b""), "training"),
        ],
        ids=[
            *("merged", "long tag", "long length", "tag beyond 32 bits", "group", "wrong type"),
            *("unknown", "function", "training"),
        ],
    )
    def test_another_graph_cannot_be_smuggled_in(
        self, tiny_bytes: bytes, resigned: Resigner, extra: bytes, said: str
    ) -> None:
        try:
            data = resigned(tiny_bytes + extra)
        except ValueError:  # so broken that there are no digits to find
            data = tiny_bytes + extra
        with pytest.raises(ModelFileError, match=said):
            read_model(data)

    def test_protobuf_does_merge_and_cut_off(self, tiny_bytes: bytes) -> None:
        """The reason: what is refused above, the onnx package sees as one graph."""
        for extra in (
            field(7, EVIL),
            encoded(tag(7)) + encoded(len(EVIL), padding=2) + EVIL,
        ):
            model = ModelProto.FromString(tiny_bytes + extra)
            assert model.graph.initializer[-1].name == "evil"
            assert len(model.graph.node) > 10

    @pytest.mark.parametrize(
        "again",
        [
            field(9, bytes(256)),  # raw_data: the last one counts
            b"\x10\x07",  # data_type
            field(8, b"other"),
        ],
    )
    def test_a_tensors_field_cannot_be_given_twice(
        self, graph: ModelProto, sealed: Callable[..., bytes], resigned: Resigner, again: bytes
    ) -> None:
        (tensor,) = (t for t in graph.graph.initializer if t.name == "stages.0.3.weight")
        whole = tensor.SerializeToString()
        tensor.MergeFromString(again)  # keeps the last
        data = sealed(graph)
        twice = field(5, whole + again)
        old = field(5, tensor.SerializeToString())
        assert old in data
        graph_at = next((a, b) for key, a, b in fields(data, 0, len(data)) if key == tag(7))
        inner = data[slice(*graph_at)].replace(old, twice)
        head = graph_at[0] - len(encoded(tag(7)) + encoded(graph_at[1] - graph_at[0]))
        data = data[:head] + field(7, inner) + data[graph_at[1] :]
        with pytest.raises(ModelFileError, match="twice"):
            read_model(resigned(data))

    def test_bytes_that_onnx_runtime_takes_for_its_own_format_are_refused(
        self, graph: ModelProto, sealed: Callable[..., bytes]
    ) -> None:
        graph.producer_name = "ORTM"
        data = sealed(graph)
        assert data[4:8] == b"ORTM"
        ModelProto.FromString(data)
        with pytest.raises(ModelFileError, match="own format"):
            read_model(data)

    @pytest.mark.parametrize(
        "filler", [b"\x08\x08", b"\x72\x00", b"\x3a\x00"], ids=["numbers", "metadata", "graphs"]
    )
    def test_millions_of_fields_are_refused(
        self, refused: Callable[..., str], filler: bytes
    ) -> None:
        refused(b"\x0a\x00" + filler * 5_000_000, r"fields|twice")

    @pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
    def test_varints_are_read_as_protobuf_writes_them(self, value: int) -> None:
        data = encoded(value)
        assert varint(data + b"\x05", 0, len(data) + 1) == (value, len(data))
        with pytest.raises(ValueError, match="broken number"):
            varint(data[:-1], 0, len(data) - 1)
        with pytest.raises(ValueError, match="broken number"):
            varint(encoded(value, padding=1), 0, 20)

    def test_numbers_beyond_64_bits_are_refused(self) -> None:
        with pytest.raises(ValueError, match="broken number"):
            varint(b"\xff" * 9 + b"\x02", 0, 10)

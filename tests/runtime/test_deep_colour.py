"""Colour of 16 bits whose samples a camera filled to 8 to 14: the warning, and `max_value`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge_runtime import ImageError
from nin_edge_runtime import samples as samples_module
from nin_edge_runtime.image import load_image

MakePng = Callable[..., bytes]


def tiff(samples: np.ndarray, order: str, *, packed: bool = False) -> bytes:
    """A TIFF of 16-bit samples (H, W, 3 or 4), in a byte order of `struct`; by deflate or raw."""
    height, width, channels = samples.shape
    data = samples.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if packed else data
    data += b"\0" * (len(data) % 2)
    start, count = 8 + len(data), 9 + (channels == 4)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    values = {
        **{256: width, 257: height, 258: start + 2 + 12 * count + 4, 259: 8 if packed else 1},
        **{262: 2, 273: 8, 277: channels, 278: height, 279: len(data), 338: 2},
    }
    entries = [
        struct.pack(f"{order}HHI", tag, 3, channels) + struct.pack(f"{order}I", value)
        if tag == 258
        else struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        if tag in (259, 262, 277, 338)
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in list(values.items())[:count]
    ]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    directory = struct.pack(f"{order}H", count) + b"".join(entries) + bytes(4)
    return head + data + directory + bits


@pytest.mark.parametrize("depth", [8, 10, 12, 14])
@pytest.mark.parametrize(
    ("form", "channels"),
    [
        *(("PNG", 2), ("PNG", 3), ("PNG", 4)),
        *(
            (f"{order}{packed}", count)
            for order in "<>"
            for packed in ("", "+")
            for count in (3, 4)
        ),
    ],
)
def test_dark_colour_is_warned_of_and_can_be_scaled(
    depth: int,
    form: str,
    channels: int,
    make_png: MakePng,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 2**depth - 1
    samples = np.zeros((2, 3, channels), np.uint16)
    samples[:, 0], samples[:, 1] = most // 2, most
    path = tmp_path / "dark.x"
    for alpha in (most, 0xFFFF):  # opaque, in the camera's range or in the file's
        if channels != 3:
            samples[..., -1] = alpha
        path.write_bytes(
            make_png(samples, 16) if form == "PNG" else tiff(samples, form[0], packed="+" in form)
        )
        caplog.clear()
        monkeypatch.setattr(samples_module, "_warned", set())
        for _ in range(2):
            load_image(path)
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{path}: its largest sample is ")
        assert f"for a camera of {depth} bits, pass max_value={most} to" in record.getMessage()
        with path.open("rb") as file:
            for source in (path, path.read_bytes(), file):
                scaled = load_image(source, max_value=most)
                np.testing.assert_allclose(scaled[:, :, 0], [[127, 255, 0]] * 2, atol=1)
                assert (scaled == scaled[:, :, :1]).all()
            assert not file.closed
            np.testing.assert_array_equal(load_image(file, max_value=most), scaled)


def test_bright_or_black_colour_is_not_warned_of(
    make_png: MakePng, caplog: pytest.LogCaptureFixture
) -> None:
    for largest in (0, 0x4000, 0xFFFF):
        load_image(make_png(np.full((2, 2, 3), largest), 16))
    assert not caplog.records


def test_a_transparent_colour_is_compared_in_all_its_bits(make_png: MakePng) -> None:
    samples = np.array([[[512, 0, 0], [513, 0, 0], [1023, 1023, 1023]]])
    source = make_png(samples, 16, clear=(512, 0, 0))
    scaled = load_image(source, max_value=1023)
    assert scaled.tolist() == [[[255, 255, 255], [128, 0, 0], [255, 255, 255]]]


def test_a_pipe_is_read_once(make_png: MakePng, tmp_path: Path) -> None:
    class Pipe:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def read(self, size: int = -1) -> bytes:
            data, self._data = self._data, b""
            return data

        def seekable(self) -> bool:
            return False

    source = Pipe(make_png(np.full((1, 1, 3), 1023), 16))
    assert load_image(source, max_value=1023).tolist() == [[[255] * 3]]  # type: ignore[arg-type]


def test_an_open_image_has_no_low_bytes(make_png: MakePng, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(make_png(np.full((1, 1, 3), 1023), 16))
    with Image.open(path) as image, pytest.raises(ImageError, match="pass the file for max_value"):
        load_image(image, max_value=1023)

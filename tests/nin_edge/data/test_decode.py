from __future__ import annotations

import io
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge.data import DatasetError, decode, open_dataset
from nin_edge.data.decode import Decoder, ImageData
from nin_edge_runtime import samples


def test_several_workers_give_what_one_gives(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_POOL_FROM", 80)
    monkeypatch.setattr(decode, "_CHUNK", 32)
    folder = make_folder(tmp_path / "many", {"circle": 50, "square": 50})
    (folder / "circle" / "007.png").write_bytes(b"I am text")
    calls: list[tuple[int, int]] = []
    several = open_dataset(
        *(folder,),
        size=16,
        workers=2,
        cache=tmp_path / "several",
        progress=lambda *call: calls.append(call),
    )
    one = open_dataset(folder, size=16, workers=1, cache=tmp_path / "one")
    assert (one.fingerprint, one.unreadable) == (several.fingerprint, several.unreadable)
    assert [name for name, _ in several.unreadable] == ["circle/007.png"]
    assert calls == [(done, 100) for done in (32, 64, 96, 100)]


def test_a_script_needs_no_main_guard(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    folder = make_folder(tmp_path / "many", {"circle": 6, "square": 6})
    script = tmp_path / "script.py"
    script.write_text(
        "from nin_edge.data import decode, open_dataset\n"
        "decode._POOL_FROM = 10\n"
        f"print(len(open_dataset({str(folder)!r}, size=16, workers=2).images))\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "12\n", "")


def test_images_are_decoded_as_they_come() -> None:
    """However many there are, few of them are in memory: they are read when they are needed."""
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), "teal").save(buffer, "PNG")
    taken = 0

    def images() -> Iterator[tuple[str, ImageData]]:
        nonlocal taken
        for index in range(1000):
            taken += 1
            yield f"{index}", buffer.getvalue()

    decoded = Decoder(size=16, channels=3, workers=1)(images(), total=1000)
    names, parts = next(decoded)
    assert taken == len(names) == len(parts) < 200
    first = parts[0]
    assert isinstance(first, decode.Decoded)
    assert np.all(np.frombuffer(first.pixels, np.uint8).reshape(16, 16, 3) == (0, 128, 128))


def test_images_with_fewer_pixels_than_asked_for_are_marked() -> None:
    shapes = ((16, 16), (200, 16), (15, 200), (200, 15))
    images = [(str(shape), np.zeros((*shape, 3), np.uint8)) for shape in shapes]
    ((_, decoded),) = Decoder(size=16, channels=3, workers=1)(images, total=len(images))
    enlarged = [not isinstance(image, str) and image.enlarged for image in decoded]
    assert enlarged == [False, False, True, True]


@pytest.mark.parametrize("side", [16, 512])
def test_what_is_sent_at_a_time_is_bounded_in_bytes(side: int) -> None:
    images: list[tuple[str, ImageData]] = [("name", bytes(1 << 20))] * 10
    chunks = list(decode._chunks(iter(images), row=side * side * 3))
    assert sum(map(len, chunks)) == 10
    for chunk in chunks:
        assert len(chunk) * side * side * 3 <= decode._CHUNK_BYTES
        assert sum(len(data) for _, data in chunk) <= decode._CHUNK_BYTES


@pytest.mark.parametrize("killed", [1, 2])
def test_a_killed_process_is_one_clear_error(encoded: bytes, killed: int) -> None:
    """Also where the other one still works, and has more to send than a pipe holds."""
    photo = encoded + bytes(1 << 16)

    def images() -> Iterator[tuple[str, bytes]]:
        for index in range(600):
            if index == 300:
                for child in multiprocessing.active_children()[:killed]:
                    child.kill()
            yield f"{index}.png", photo

    with pytest.raises(DatasetError, match=r"was killed.*NIN_EDGE_THREADS=1"):
        for _ in Decoder(128, 3, workers=2)(images(), total=600):
            pass
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_dark_images_are_warned_of_once_by_name(
    workers: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_warned", set())
    monkeypatch.setattr(decode, "_POOL_FROM", 2)
    monkeypatch.setattr(decode, "_CHUNK", 1)
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 1023, np.uint16)).save(buffer, "PNG")
    files = [(f"cat/{number}.png", buffer.getvalue()) for number in range(6)]
    decoded = dict(
        pair
        for names, images in Decoder(16, 3, workers)(files, 6)
        for pair in zip(names, images, strict=True)
    )
    assert decoded == {name: (b"\3" * (16 * 16 * 3), True) for name, _ in files}
    (record,) = caplog.records
    assert re.match(r"cat/\d.png: its largest sample is 1023 of 65535", record.getMessage())

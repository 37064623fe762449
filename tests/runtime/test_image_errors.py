"""Inputs that are no image: each is an `ImageError` with its name and the reason.

test_bad_images.py tries many more through the classifier.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nin_edge_runtime import ImageError
from nin_edge_runtime.image import load_image


@pytest.fixture(scope="module")
def jpeg(scene: np.ndarray, encode: Callable[..., bytes]) -> bytes:
    return encode(scene, "JPEG")


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("missing.jpg", None, "no such file"),
            ("empty.jpg", b"", "empty"),
            ("text.jpg", b"not an image at all\n", "not an image"),
            ("signature.png", b"\x89PNG\r\n\x1a\n", "image|decoded"),
            ("model.onnx", b"\x08\x08\x12\x07pytorch", "not an image"),
        ],
    )
    def test_a_bad_file_is_named_with_the_reason(
        self, tmp_path: Path, name: str, content: bytes | None, said: str
    ) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        for source in (path, str(path)):
            with pytest.raises(ImageError, match=said) as error:
                load_image(source)
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)

    def test_a_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="folder") as error:
            load_image(tmp_path)
        assert str(tmp_path) in str(error.value)

    @pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000 + ".jpg"], ids=["NUL", "long"])
    def test_an_impossible_path_is_refused(self, name: str) -> None:
        with pytest.raises(ImageError, match=r"\.jpg"):
            load_image(name)

    def test_a_path_through_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ImageError, match=r"photo\.jpg"):
            load_image(tmp_path / "file" / "photo.jpg")

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_a_truncated_file_is_refused_by_name(
        self,
        tmp_path: Path,
        rng: np.random.Generator,
        encode: Callable[..., bytes],
        file_format: str,
        kept: float,
    ) -> None:
        data = encode(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), file_format)
        path = tmp_path / "cut.jpg"
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(ImageError, match=r"cut\.jpg"):
            load_image(path)

    @pytest.mark.parametrize(
        "source",
        [b"", bytearray(), b"\xff\xd8\xff", io.BytesIO(b"text"), io.StringIO("text")],
        ids=["bytes", "bytearray", "JPEG", "BytesIO", "StringIO"],
    )
    def test_bad_bytes_and_file_objects_are_refused(self, source: object) -> None:
        with pytest.raises(ImageError):
            load_image(source)

    def test_a_bad_file_object_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "text.jpg"
        path.write_text("text")
        with path.open("rb") as opened, pytest.raises(ImageError, match=r"text\.jpg"):
            load_image(opened)

    def test_a_closed_file_is_refused(self, tmp_path: Path) -> None:
        with (tmp_path / "closed.jpg").open("wb") as closed:
            pass
        with pytest.raises(ImageError, match=r"closed\.jpg"):
            load_image(closed)

    @pytest.mark.parametrize("source", [None, 7, [1, 2], {"image": 1}])
    def test_other_objects_are_named_by_type(self, source: object) -> None:
        with pytest.raises(ImageError, match=type(source).__name__):
            load_image(source)

    def test_bgr_is_for_arrays_alone(self, jpeg: bytes) -> None:
        for source in (jpeg, "photo.jpg", Image.new("RGB", (2, 2))):
            with pytest.raises(ImageError, match="bgr"):
                load_image(source, bgr=True)

    def test_a_pil_image_that_cannot_be_decoded_is_refused(self, jpeg: bytes) -> None:
        truncated = Image.open(io.BytesIO(jpeg[:-50]))
        with pytest.raises(ImageError, match="decoded"):
            load_image(truncated)

    @pytest.mark.parametrize("size", [(0, 4), (4, 0)])
    def test_a_pil_image_without_pixels_is_refused(self, size: tuple[int, int]) -> None:
        with pytest.raises(ImageError, match="pixel"):
            load_image(Image.new("RGB", size))

    @pytest.mark.parametrize("as_pil", [False, True], ids=["bytes", "PIL"])
    def test_decoding_a_picture_starts_no_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_pil: bool
    ) -> None:
        started = tmp_path / "started"
        fake = tmp_path / "gs"
        fake.write_text(f"#!/bin/sh\ntouch {started}\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # look for it again
        data = (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
        )
        source = Image.open(io.BytesIO(data)) if as_pil else data
        with pytest.raises(ImageError, match="EPS, which needs an external program to decode"):
            load_image(source)
        assert not started.exists()

    @pytest.mark.parametrize(("mode", "clear"), [("RGB", (1, 2)), ("P", 1000)])
    def test_a_pil_image_with_odd_transparency_is_refused(self, mode: str, clear: object) -> None:
        image = Image.new(mode, (4, 3))
        image.info["transparency"] = clear
        with pytest.raises(ImageError, match="cannot be decoded"):
            load_image(image)

    def test_odd_views_and_paths_are_refused(self, tmp_path: Path) -> None:
        released = memoryview(b"text")
        released.release()

        class Odd(os.PathLike):
            def __fspath__(self) -> str:
                raise RuntimeError("no path today")

        for source in (memoryview(b"abcdef")[::2], released, Odd()):
            with pytest.raises(ImageError):
                load_image(source)

    def test_a_path_of_bytes_is_a_path(self, scene: np.ndarray, tmp_path: Path) -> None:
        Image.fromarray(scene).save(tmp_path / "scene.png")

        class ByBytes(os.PathLike):
            def __fspath__(self) -> bytes:
                return os.fsencode(tmp_path / "scene.png")

        np.testing.assert_array_equal(load_image(ByBytes()), scene)

    def test_more_pixels_than_the_limit_are_refused(
        self, scene: np.ndarray, encode: Callable[..., bytes]
    ) -> None:
        height, width, _ = scene.shape
        most = height * width
        for source in (scene, Image.fromarray(scene), encode(scene)):
            assert load_image(source, max_pixels=most).shape == scene.shape
            with pytest.raises(ImageError, match=f"{width} x {height} pixels"):
                load_image(source, max_pixels=most - 1)

    @pytest.mark.parametrize("size", [(12_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
    def test_a_small_file_that_claims_to_be_huge_is_refused(
        self, make_png: Callable[..., bytes], tmp_path: Path, size: tuple[int, int]
    ) -> None:
        path = tmp_path / "bomb.png"
        path.write_bytes(make_png(np.zeros((1, 1)), 8, size=size))
        with pytest.raises(ImageError, match=r"bomb\.png.*pixels"):
            load_image(path)

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"BM"]))
    def test_random_bytes_give_an_image_or_an_image_error(self, data: bytes, head: bytes) -> None:
        with suppress(ImageError):
            assert load_image(head + data).shape[2] == 3

    def test_damaged_files_give_an_image_or_an_image_error(
        self, scene: np.ndarray, rng: np.random.Generator, encode: Callable[..., bytes]
    ) -> None:
        for file_format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
            data = encode(scene, file_format)
            for _ in range(30):
                damaged = bytearray(data)
                for position in rng.integers(0, len(data), 3):
                    damaged[position] = rng.integers(0, 256)
                with suppress(ImageError):
                    assert load_image(damaged).shape[2] == 3

    def test_broken_files_of_pngsuite_are_refused_and_no_others(
        self, archived: Callable[[str], dict[str, bytes]]
    ) -> None:
        refused = set()
        files = archived("pngsuite.tar.xz")
        for name, data in files.items():
            try:
                load_image(data)
            except ImageError:
                refused.add(name)
        assert len(files) > 100
        broken = {name for name in files if name.startswith("x")}
        assert refused == broken - {"xcsn0g01"}  # Pillow leaves the pixels' checksum to zlib's own

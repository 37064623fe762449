from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nin_edge_runtime import ImageError
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.image import find_images, load_image
from nin_edge_runtime.preprocessing import Preprocessing, center_crop_box

JPEG_TOLERANCE = 6
"""Largest mean difference of a smooth scene that went through JPEG, in steps of 1/255."""
ROTATION_TOLERANCE = 6
"""The same, between photos that were compressed after they were turned."""
FLOAT_TOLERANCE = 1e-6
"""Largest difference of a normalised pixel from its formula."""

ORIENTATION_TAG = 0x0112
# How a camera stores an upright scene under each EXIF orientation (tag 274).
STORED = {
    1: lambda scene: scene,
    2: np.fliplr,
    3: lambda scene: np.rot90(scene, 2),
    4: np.flipud,
    5: lambda scene: scene.swapaxes(0, 1),
    6: np.rot90,
    7: lambda scene: np.rot90(scene, 2).swapaxes(0, 1),
    8: lambda scene: np.rot90(scene, -1),
}


DRAFT_PIXEL_TOLERANCE = 2
"""Largest difference of a byte after decoding a smooth JPEG at a reduced scale."""


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A smooth picture without any symmetry, 24 x 40."""
    ramp_y, ramp_x = np.mgrid[0:24, 0:40]
    return np.stack([ramp_y * 10, ramp_x * 6, (ramp_y + ramp_x) * 3], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@pytest.fixture(scope="module")
def file(scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "étoile scene.png"
    path.write_bytes(encoded(Image.fromarray(scene)))
    return path


class TestSources:
    @pytest.mark.parametrize(
        "convert",
        [
            Path,
            str,
            Path.read_bytes,
            lambda path: bytearray(path.read_bytes()),
            lambda path: memoryview(path.read_bytes()),
            lambda path: io.BytesIO(path.read_bytes()),
            lambda path: Image.open(io.BytesIO(path.read_bytes())),
            lambda path: np.asarray(Image.open(io.BytesIO(path.read_bytes()))),
        ],
        ids=["Path", "str", "bytes", "bytearray", "memoryview", "BytesIO", "PIL", "array"],
    )
    def test_every_kind_of_source_gives_the_same_pixels(
        self, file: Path, scene: np.ndarray, convert: Callable[[Path], object]
    ) -> None:
        loaded = load_image(convert(file))
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, scene)

    def test_a_callers_file_stays_open(self, file: Path, scene: np.ndarray) -> None:
        with file.open("rb") as opened:
            np.testing.assert_array_equal(load_image(opened), scene)
            assert not opened.closed

    def test_a_callers_pil_image_stays_as_it_was(self, scene: np.ndarray) -> None:
        image = Image.fromarray(scene).convert("RGBA")
        before = image.tobytes()
        load_image(image)
        assert (image.mode, image.tobytes()) == ("RGBA", before)

    def test_a_relative_path_works(
        self, file: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(file.parent)
        np.testing.assert_array_equal(load_image(file.name), scene)


class TestArrays:
    @pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
    def test_grey_fills_all_channels(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> None:
        grey = rng.integers(0, 256, shape, dtype=np.uint8)
        loaded = load_image(grey)
        assert loaded.shape == (5, 7, 3)
        for channel in range(3):
            np.testing.assert_array_equal(loaded[:, :, channel], grey.reshape(5, 7))

    def test_bgr_is_reversed(self, scene: np.ndarray) -> None:
        np.testing.assert_array_equal(load_image(scene[:, :, ::-1], bgr=True), scene)

    def test_bgr_leaves_grey_alone(self, scene: np.ndarray) -> None:
        grey = scene[:, :, 0]
        np.testing.assert_array_equal(load_image(grey, bgr=True), load_image(grey))

    def test_strides_and_read_only_memory_do_not_matter(self, scene: np.ndarray) -> None:
        strided = np.repeat(scene, 2, axis=1)[:, ::2]
        strided.flags.writeable = False
        assert not strided.flags.c_contiguous
        np.testing.assert_array_equal(load_image(strided), scene)
        resized = Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3).resize
        np.testing.assert_array_equal(resized(load_image(strided)), resized(scene))

    @pytest.mark.parametrize(
        ("array", "named"),
        [
            (np.zeros((4, 4, 3), np.float32), "float32"),
            (np.zeros((4, 4, 3), np.uint16), "uint16"),
            (np.zeros((4, 4), bool), "bool"),
            (np.zeros((4, 4), object), "object"),
            (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
            (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)"),
            (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
            (np.zeros(4, np.uint8), r"\(4,\)"),
            (np.array(0, np.uint8), r"\(\)"),
            (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
            (np.zeros((4, 0), np.uint8), r"\(4, 0"),
        ],
    )
    def test_other_arrays_are_refused_by_type_and_shape(
        self, array: np.ndarray, named: str
    ) -> None:
        with pytest.raises(ImageError, match=named):
            load_image(array)


class TestOrientation:
    @pytest.mark.parametrize("orientation", STORED)
    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize("as_pil", [False, True], ids=["bytes", "PIL"])
    def test_every_orientation_comes_out_upright(
        self, scene: np.ndarray, orientation: int, kind: str, as_pil: bool
    ) -> None:
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
        data = encoded(stored, kind, exif=exif)
        np.testing.assert_array_equal(
            load_image(Image.open(io.BytesIO(data)) if as_pil else data), scene
        )

    @pytest.mark.parametrize("orientation", STORED)
    def test_every_orientation_of_a_jpeg_comes_out_upright(
        self, scene: np.ndarray, orientation: int
    ) -> None:
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
        loaded = load_image(encoded(stored, "JPEG", quality=95, exif=exif))
        assert mean_difference(loaded, scene) < JPEG_TOLERANCE

    @pytest.mark.parametrize("orientation", [0, 9, "left"])
    def test_a_senseless_orientation_counts_as_none(
        self, scene: np.ndarray, orientation: object
    ) -> None:
        image = Image.fromarray(scene)
        image.getexif()[ORIENTATION_TAG] = orientation
        np.testing.assert_array_equal(load_image(image), scene)

    def test_broken_exif_counts_as_none(self, scene: np.ndarray) -> None:
        data = encoded(Image.fromarray(scene), exif=b"Exif\0\0MM\0*\0\0\xff\xff")
        np.testing.assert_array_equal(load_image(data), scene)


def grey_samples(depth: int) -> np.ndarray:
    """All levels of grey of a bit depth, or 256 of them, as one row."""
    return np.linspace(0, 2**depth - 1, min(256, 2**depth)).astype(np.uint16)[np.newaxis]


class TestModes:
    def test_palette(self, scene: np.ndarray) -> None:
        image = Image.fromarray(scene).quantize(16)
        np.testing.assert_array_equal(load_image(encoded(image)), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    def test_transparent_palette_colour_becomes_white(self, kind: str) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([200, 0, 0, 0, 0, 200])
        image.putdata([0, 1])
        loaded = load_image(encoded(image, kind, transparency=0))
        assert loaded.tolist() == [[[255, 255, 255], [0, 0, 200]]]

    @pytest.mark.parametrize(
        ("mode", "colour"), [("RGBA", (10, 10, 10)), ("LA", (10,)), ("RGBa", (5, 5, 5))]
    )
    def test_alpha_is_laid_over_white(self, mode: str, colour: tuple[int, ...]) -> None:
        opaque, clear = (load_image(Image.new(mode, (1, 1), (*colour, a))) for a in (255, 0))
        assert opaque.tolist() == [[[colour[0]] * 3]]
        assert clear.tolist() == [[[255] * 3]]
        if mode != "RGBa":
            half = load_image(Image.new(mode, (1, 1), (*colour, 128)))
            assert half[0, 0] == pytest.approx([10 + (255 - 10) * 127 / 255] * 3, abs=1)

    @pytest.mark.parametrize(
        ("ink", "seen"),
        [
            ((0, 0, 0, 0), (255, 255, 255)),
            ((255, 0, 0, 0), (0, 255, 255)),
            ((0, 0, 0, 255), (0, 0, 0)),
        ],
    )
    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_cmyk(self, ink: tuple[int, ...], seen: tuple[int, ...], kind: str) -> None:
        loaded = load_image(encoded(Image.new("CMYK", (8, 8), ink), kind))
        assert np.abs(loaded.astype(int) - seen).max() < JPEG_TOLERANCE

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_grey_of_every_depth_is_scaled_not_clipped(
        self, make_png: Callable[..., bytes], depth: int
    ) -> None:
        samples = grey_samples(depth)
        loaded = load_image(make_png(samples, depth))
        expected = np.floor(samples * (255 / (2**depth - 1)) + 1e-9)
        np.testing.assert_allclose(loaded[:, :, 0], expected, atol=1 if depth == 16 else 0)
        assert loaded.min() == 0
        assert loaded.max() == 255

    def test_sixteen_bit_colour_is_scaled(self, make_png: Callable[..., bytes]) -> None:
        samples = np.array([[[0, 0x8000, 0xFFFF]]])
        assert load_image(make_png(samples, 16)).tolist() == [[[0, 128, 255]]]

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_the_transparent_grey_becomes_white(
        self, make_png: Callable[..., bytes], depth: int
    ) -> None:
        samples = grey_samples(depth)
        plain = load_image(make_png(samples, depth))[0, :, 0]
        clear = samples.shape[1] // 3
        loaded = load_image(make_png(samples, depth, clear=(int(samples[0, clear]),)))[0, :, 0]
        expected = plain.copy()
        expected[clear] = 255
        np.testing.assert_array_equal(loaded, expected)

    @pytest.mark.parametrize("depth", [8, 16])
    def test_the_transparent_colour_becomes_white(
        self, make_png: Callable[..., bytes], depth: int
    ) -> None:
        step = 2**depth // 8
        samples = np.array([[[step, 2 * step, 3 * step], [4 * step, step, step]]])
        loaded = load_image(make_png(samples, depth, clear=(step, 2 * step, 3 * step)))
        assert loaded.tolist() == [[[255, 255, 255], [128, 32, 32]]]

    @pytest.mark.parametrize("dtype", [np.uint16, np.int32])
    def test_sixteen_bit_pil_images_are_scaled(self, dtype: type) -> None:
        loaded = load_image(Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], dtype)))
        assert loaded[0, :, 0].tolist() == [0, 0x12, 0xFF]

    @pytest.mark.parametrize("value", [-1, 0x10000])
    def test_samples_beyond_sixteen_bits_are_refused(self, value: int) -> None:
        with pytest.raises(ImageError, match="16 bits"):
            load_image(Image.fromarray(np.array([[value]], np.int32)))

    def test_floating_point_tiff_is_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "depth.tif"
        Image.fromarray(np.ones((4, 4), np.float32)).save(path)
        with pytest.raises(ImageError, match=r"depth\.tif.*floating"):
            load_image(path)

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_an_animation_gives_its_first_frame(self, kind: str) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (load_image(data) == (255, 0, 0)).all()

    @pytest.mark.parametrize(
        "mode",
        [
            *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "F"),
            *("I", "I;16", "I;16L", "I;16B", "LA", "La", "PA", "RGBX", "RGBa"),
        ],
    )
    def test_every_pil_mode_is_an_image_or_an_image_error(self, mode: str) -> None:
        try:
            loaded = load_image(Image.new(mode, (4, 3)))
        except ImageError:
            return
        assert (loaded.shape, loaded.dtype) == ((3, 4, 3), np.uint8)


@pytest.fixture(scope="module")
def jpeg(scene: np.ndarray) -> bytes:
    return encoded(Image.fromarray(scene), "JPEG")


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
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_a_truncated_file_is_refused_by_name(
        self, tmp_path: Path, rng: np.random.Generator, kind: str, kept: float
    ) -> None:
        noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        data = encoded(noise, kind)
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

    def test_more_pixels_than_the_limit_are_refused(self, scene: np.ndarray) -> None:
        height, width, _ = scene.shape
        most = height * width
        for source in (scene, Image.fromarray(scene), encoded(Image.fromarray(scene))):
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
        self, scene: np.ndarray, rng: np.random.Generator
    ) -> None:
        for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
            data = encoded(Image.fromarray(scene), kind)
            for _ in range(30):
                damaged = bytearray(data)
                for position in rng.integers(0, len(data), 3):
                    damaged[position] = rng.integers(0, 256)
                with suppress(ImageError):
                    assert load_image(damaged).shape[2] == 3


class TestPreprocessing:
    COLOUR = Preprocessing(16, 3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    GREY = Preprocessing(16, 1, mean=(0.4,), std=(0.2,))

    @pytest.mark.parametrize(
        ("height", "width", "box"),
        [
            (4, 4, (0, 0, 4, 4)),
            (4, 7, (1, 0, 5, 4)),
            (7, 4, (0, 1, 4, 5)),
            (4, 8, (2, 0, 6, 4)),
            (1, 100, (49, 0, 50, 1)),
            (1, 1, (0, 0, 1, 1)),
        ],
    )
    def test_the_centre_square_leaves_odd_pixels_right_and_below(
        self, height: int, width: int, box: tuple[int, ...]
    ) -> None:
        assert center_crop_box(height, width) == box

    @pytest.mark.parametrize("size", [(8, 8), (15, 33), (33, 15), (100, 61), (1, 1), (240, 320)])
    def test_resize_is_pillows_crop_and_bilinear(self, size: tuple[int, int]) -> None:
        pixels = golden_image(7, *size)
        box = center_crop_box(*size)
        cropped = Image.fromarray(pixels).crop(box)
        expected = cropped.resize((16, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(self.COLOUR.resize(pixels), np.asarray(expected))
        grey = cropped.convert("L").resize((16, 16), Image.Resampling.BILINEAR)
        resized = self.GREY.resize(pixels)
        assert resized.shape == (16, 16, 1)
        np.testing.assert_array_equal(resized[:, :, 0], np.asarray(grey))

    def test_luma_before_the_crop_is_luma_after_it(self) -> None:
        pixels = golden_image(8, 30, 51)
        luma = Image.fromarray(pixels).convert("L").crop(center_crop_box(30, 51))
        expected = luma.resize((16, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(self.GREY.resize(pixels)[:, :, 0], np.asarray(expected))

    def test_an_input_of_the_networks_size_passes_unchanged(self) -> None:
        pixels = golden_image(9, 16, 16)
        np.testing.assert_array_equal(self.COLOUR.resize(pixels), pixels)

    def test_normalize_is_scale_then_mean_and_std(self, rng: np.random.Generator) -> None:
        pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        normalized = self.COLOUR.normalize(pixels)
        expected = (pixels / 255 - self.COLOUR.mean) / self.COLOUR.std
        assert normalized.dtype == np.float32
        assert normalized.flags.c_contiguous
        np.testing.assert_allclose(
            normalized, expected.transpose(0, 3, 1, 2), rtol=0, atol=FLOAT_TOLERANCE
        )

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"channels": 2}, "2 channels"),
            ({"size": 0}, "size 0"),
            ({"size": 5000}, "size 5000"),
            ({"mean": (0.5,)}, "mean"),
            ({"std": (0.2,) * 4}, "std"),
            ({"mean": (0.5, 0.5, 1.5)}, "mean"),
            ({"mean": (0.5, 0.5, float("nan"))}, "mean"),
            ({"std": (0.2, 0.2, 0.0)}, "std"),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, change: dict[str, object], said: str) -> None:
        good = {"size": 16, "channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}
        with pytest.raises(ValueError, match=said):
            Preprocessing(**good | change)

    @pytest.mark.parametrize("steps", [COLOUR, GREY], ids=["colour", "grey"])
    @pytest.mark.parametrize("size", [(16, 16), (24, 41), (50, 17), (3, 200)])
    @pytest.mark.parametrize(
        "view",
        [
            lambda x: x,
            lambda x: x[::-1],
            lambda x: x[:, ::-1],
            lambda x: np.pad(x, ((3, 2), (5, 1), (0, 0)))[3:-2, 5:-1],
            lambda x: np.repeat(x, 2, axis=1)[:, ::2],
            lambda x: np.asfortranarray(x),
            lambda x: x[:, :, :1],
            lambda x: x[:, :, 0],
        ],
        ids=["plain", "upside down", "mirrored", "cut out", "every other", "Fortran", "K1", "K"],
    )
    def test_any_array_gives_what_load_image_and_resize_give(
        self,
        rng: np.random.Generator,
        steps: Preprocessing,
        size: tuple[int, int],
        view: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        array = view(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        array.flags.writeable = False
        for bgr in (False, True):
            upright = np.ascontiguousarray(load_image(array, bgr=bgr))
            pixels, seen = steps.load(array, bgr=bgr)
            assert seen == size
            np.testing.assert_array_equal(pixels, steps.resize(upright))

    def test_files_give_what_load_image_and_resize_give(
        self, scene: np.ndarray, tmp_path: Path
    ) -> None:
        path = tmp_path / "scene.png"
        Image.fromarray(scene).save(path)
        for source in (path, path.read_bytes(), Image.fromarray(scene)):
            pixels, size = self.COLOUR.load(source)
            assert size == (24, 40)
            np.testing.assert_array_equal(pixels, self.COLOUR.resize(scene))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_draft_shows_the_same_square(self, orientation: int) -> None:
        ramp_y, ramp_x = np.mgrid[0:400, 0:500]
        large = np.stack([ramp_y // 2, ramp_x // 2, (ramp_y + ramp_x) // 4], axis=2)
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(large.astype(np.uint8)), "JPEG", quality=95, exif=exif)
        exact, full = self.COLOUR.load(data)
        drafted, size = self.COLOUR.load(data, draft=True)
        assert size == full == ((400, 500) if orientation < 5 else (500, 400))
        assert not np.array_equal(drafted, exact)
        assert np.abs(drafted.astype(int) - exact).max() <= DRAFT_PIXEL_TOLERANCE

    def test_a_draft_leaves_other_formats_alone(self, rng: np.random.Generator) -> None:
        data = encoded(Image.fromarray(rng.integers(0, 256, (400, 500, 3), dtype=np.uint8)))
        np.testing.assert_array_equal(
            self.COLOUR.load(data, draft=True)[0], self.COLOUR.load(data)[0]
        )


class TestFindImages:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.webp", ".git/d.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "folder.png").mkdir()
        return tmp_path

    def test_a_folder_gives_its_images_sorted_without_hidden_ones(self, folder: Path) -> None:
        found = [path.relative_to(folder).as_posix() for path in find_images([folder])]
        assert found == ["a.png", "b.JPG", "sub/c.webp"]

    def test_files_named_are_kept_as_they_are_and_in_order(self, folder: Path) -> None:
        named = [folder / "notes.txt", folder / ".hidden.png", folder / "missing.jpg"]
        assert find_images([str(path) for path in named]) == named
        assert find_images([folder / ".git"]) == [folder / ".git" / "d.png"]

    def test_a_folder_without_images_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").touch()
        with pytest.raises(ImageError, match="no image files") as error:
            find_images([tmp_path])
        assert str(tmp_path) in str(error.value)


def archived(archive: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(suffix):
                file = tar.extractfile(member)
                assert file is not None
                yield Path(member.name).stem, file.read()


@pytest.fixture(scope="module")
def pngsuite(data_dir: Path) -> dict[str, np.ndarray | Exception]:
    """What each file of PngSuite gave."""
    given: dict[str, np.ndarray | Exception] = {}
    for name, data in archived(data_dir / "pngsuite.tar.xz", ".png"):
        try:
            given[name] = load_image(data)
        except Exception as error:
            given[name] = error
    return given


class TestRealFiles:
    def test_pngsuite_gives_images_or_image_errors_alone(
        self, pngsuite: dict[str, np.ndarray | Exception]
    ) -> None:
        others = {
            name: result
            for name, result in pngsuite.items()
            if not isinstance(result, (np.ndarray, ImageError))
        }
        assert not others
        assert len(pngsuite) > 100

    def test_broken_files_of_pngsuite_are_refused_and_no_others(
        self, pngsuite: dict[str, np.ndarray | Exception]
    ) -> None:
        refused = {name for name, result in pngsuite.items() if isinstance(result, ImageError)}
        broken = {name for name in pngsuite if name.startswith("x")}
        assert refused == broken - {"xcsn0g01"}  # Pillow leaves the pixels' checksum to zlib's own

    @pytest.mark.parametrize("name", ["Landscape", "Portrait"])
    def test_real_photos_of_every_orientation_are_alike(self, data_dir: Path, name: str) -> None:
        photos = {
            stem: load_image(data)
            for stem, data in archived(data_dir / "exif-orientation.tar", ".jpg")
            if stem.startswith(name)
        }
        assert len(photos) == 9
        upright = photos[f"{name}_0"]
        for photo in photos.values():
            assert mean_difference(photo, upright) < ROTATION_TOLERANCE

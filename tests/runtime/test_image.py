"""Any input -> upright RGB: what it may be, its orientation, its modes and bit depths."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge_runtime import ImageError
from nin_edge_runtime.image import find_images, load_image
from nin_edge_runtime.preprocessing import Preprocessing

JPEG_TOLERANCE = 6
"""Largest mean difference of a smooth scene that went through JPEG, in steps of 1/255."""
ROTATION_TOLERANCE = 6
"""The same, between photos that were compressed after they were turned."""

ORIENTATIONS = range(1, 9)
ORIENTATION_TAG = 0x0112


def mean_difference(image: np.ndarray, expected: np.ndarray) -> float:
    assert image.shape == expected.shape
    return float(np.abs(image.astype(int) - expected.astype(int)).mean())


@pytest.fixture(scope="module")
def file(
    scene: np.ndarray, encode: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("images") / "étoile scene.png"
    path.write_bytes(encode(scene))
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


@pytest.mark.exhaustive
class TestOrientation:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    @pytest.mark.parametrize("as_pil", [False, True], ids=["bytes", "PIL"])
    def test_every_orientation_comes_out_upright(
        self,
        scene: np.ndarray,
        photograph: Callable[..., bytes],
        orientation: int,
        file_format: str,
        as_pil: bool,
    ) -> None:
        data = photograph(scene, orientation, file_format)
        np.testing.assert_array_equal(
            load_image(Image.open(io.BytesIO(data)) if as_pil else data), scene
        )

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_every_orientation_of_a_jpeg_comes_out_upright(
        self, scene: np.ndarray, photograph: Callable[..., bytes], orientation: int
    ) -> None:
        loaded = load_image(photograph(scene, orientation, "JPEG", quality=95))
        assert mean_difference(loaded, scene) < JPEG_TOLERANCE

    @pytest.mark.parametrize("orientation", [0, 9, "left"])
    def test_a_senseless_orientation_counts_as_none(
        self, scene: np.ndarray, orientation: object
    ) -> None:
        image = Image.fromarray(scene)
        image.getexif()[ORIENTATION_TAG] = orientation
        np.testing.assert_array_equal(load_image(image), scene)

    def test_broken_exif_counts_as_none(
        self, scene: np.ndarray, encode: Callable[..., bytes]
    ) -> None:
        data = encode(scene, exif=b"Exif\0\0MM\0*\0\0\xff\xff")
        np.testing.assert_array_equal(load_image(data), scene)

    @pytest.mark.parametrize("name", ["Landscape", "Portrait"])
    def test_real_photos_of_every_orientation_are_alike(
        self, archived: Callable[[str], dict[str, bytes]], name: str
    ) -> None:
        photos = archived("exif-orientation.tar")
        upright = load_image(photos[f"{name}_0"])
        for orientation in ORIENTATIONS:
            turned = load_image(photos[f"{name}_{orientation}"])
            assert mean_difference(turned, upright) < ROTATION_TOLERANCE


def grey_samples(depth: int) -> np.ndarray:
    """All levels of grey of a bit depth, or 256 of them, as one row."""
    return np.linspace(0, 2**depth - 1, min(256, 2**depth)).astype(np.uint16)[np.newaxis]


class TestModes:
    def test_palette(self, scene: np.ndarray, encode: Callable[..., bytes]) -> None:
        image = Image.fromarray(scene).quantize(16)
        np.testing.assert_array_equal(load_image(encode(image)), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("file_format", ["PNG", "GIF"])
    def test_transparent_palette_colour_becomes_white(
        self, encode: Callable[..., bytes], file_format: str
    ) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([200, 0, 0, 0, 0, 200])
        image.putdata([0, 1])
        loaded = load_image(encode(image, file_format, transparency=0))
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
    @pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
    def test_cmyk(
        self,
        encode: Callable[..., bytes],
        ink: tuple[int, ...],
        seen: tuple[int, ...],
        file_format: str,
    ) -> None:
        loaded = load_image(encode(Image.new("CMYK", (8, 8), ink), file_format))
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

    @pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_an_animation_gives_its_first_frame(
        self, encode: Callable[..., bytes], file_format: str
    ) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
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
        assert find_images(["x" * 5000]) == [Path("x" * 5000)]  # to be refused when it is read

    def test_a_folder_without_images_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").touch()
        with pytest.raises(ImageError, match="no image files") as error:
            find_images([tmp_path])
        assert str(tmp_path) in str(error.value)

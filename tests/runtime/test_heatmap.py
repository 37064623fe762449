from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge_runtime import Classifier, ImageError, NinEdgeError, Prediction, heatmap
from nin_edge_runtime.heatmap import MAX_SIDE, overlay
from nin_edge_runtime.image import load_image
from nin_edge_runtime.preprocessing import center_crop_box

CENTRE_TOLERANCE = 0.75
"""Pixels of the network's input. 0.45 was measured; resizing the map like a photo is off by 1.5."""
POSITION_TOLERANCE = 2.0
"""Pixels of the picture: several share the brightest colour."""
JPEG_TOLERANCE = 6
"""Largest mean difference of two heatmaps, in steps of 1/255: JPEG after rotation, and lines."""

REPEATS = 12
"""Rolled copies of the photo in which every line of pixels is disturbed."""

GREY = 128


def predicted(
    shape: tuple[int, ...],
    class_map: np.ndarray,
    *,
    label: str = "cat",
    unknown: bool = False,
    crop: tuple[int, int, int, int] | None = None,
) -> Prediction:
    """A prediction of an image of that (H, W, ...)."""
    return Prediction(
        label=label,
        score=0.75,
        unknown=unknown,
        labels=(label, "other"),
        probabilities=np.array([0.75, 0.25], np.float32),
        class_map=np.asarray(class_map, np.float32),
        crop=crop or center_crop_box(shape[0], shape[1]),
    )


def one_hot(cells: int, row: int, column: int) -> np.ndarray:
    hot = np.zeros((cells, cells), np.float32)
    hot[row, column] = 5.0
    return hot


def plain(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def hottest(picture: np.ndarray) -> tuple[float, float]:
    """Centre (row, column) of the most colourful pixels of a picture (H, W, 3)."""
    colour = picture[:, :, 0].astype(int) - picture[:, :, 2]
    rows, columns = np.nonzero(colour == colour.max())
    return rows.mean() + 0.5, columns.mean() + 0.5


@pytest.mark.exhaustive
class TestPosition:
    @pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
    def test_cells_of_the_network_are_centred_on_every_fourth_pixel(
        self, photo: Path, rng: np.random.Generator, axis: int
    ) -> None:
        """The module's claim about the geometry: which pixels does a cell depend on?"""
        classify = Classifier(provider="cpu", threads=1)
        pixels, _ = classify.info.preprocessing.load(photo)  # (32, 32, 3)
        influence = np.zeros((8, 32))
        for _ in range(REPEATS):
            # Rolled, so that it does not matter where in the photo the object is.
            base = np.roll(pixels, rng.integers(0, 32, 2), (0, 1))
            before = classify(base)
            changed = np.repeat(base[np.newaxis], 32, axis=0)
            for line in range(32):
                along = changed[line].swapaxes(0, axis)
                noise = rng.integers(-40, 41, along[line].shape)
                along[line] = np.clip(along[line] + noise, 0, 255)
            for line, after in enumerate(classify.batch(list(changed))):
                if after.label == before.label:  # the map is the top class's
                    difference = np.abs(after.class_map - before.class_map)
                    influence[:, line] += difference.sum(1 - axis)
        for cell in (2, 3, 4, 5):  # far from the border
            around = np.arange(4 * cell - 6, 4 * cell + 7)
            centre = (influence[cell, around] * around).sum() / influence[cell, around].sum()
            assert centre == pytest.approx(4 * cell, abs=CENTRE_TOLERANCE)

    @pytest.mark.parametrize(
        ("height", "width"), [(320, 320), (301, 451), (640, 360), (257, 800), (1501, 999)]
    )
    @pytest.mark.parametrize("cell", [(2, 5), (6, 1), (4, 4)])
    def test_hot_cell_lies_on_its_pixel_of_the_crop(
        self, height: int, width: int, cell: tuple[int, int]
    ) -> None:
        image = plain(height, width)
        drawn = np.asarray(overlay(image, predicted(image.shape, one_hot(8, *cell))))
        left, top, right, _ = center_crop_box(height, width)
        scale = (right - left) / 32
        found = hottest(drawn[:height, :width])
        expected = top + (4 * cell[0] + 0.5) * scale, left + (4 * cell[1] + 0.5) * scale
        assert found == pytest.approx(expected, abs=POSITION_TOLERANCE)

    def test_size_tells_what_the_map_does_not(self) -> None:
        """A 29 x 29 network has 8 x 8 cells, as a 32 x 32 one; one pooling has 16 x 16."""
        image = plain(290, 290)
        last = predicted(image.shape, one_hot(8, 7, 7))
        found = hottest(np.asarray(overlay(image, last, size=29))[:290])
        assert found[0] == found[1] > 285  # pixel 28 is the last one: 28.5 * 10, and on
        middle = predicted(image.shape, one_hot(16, 8, 8))
        found = hottest(np.asarray(overlay(image, middle, size=29))[:290])
        assert found == pytest.approx((165, 165), abs=POSITION_TOLERANCE)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_exif_orientation_gives_the_upright_picture(
        self, photograph: Callable[..., bytes], orientation: int, rng: np.random.Generator
    ) -> None:
        scene = np.kron(
            rng.integers(0, 256, (4, 7, 3), dtype=np.uint8), np.ones((70, 70, 1), np.uint8)
        )
        prediction = predicted(scene.shape, rng.random((8, 8)))
        stored = photograph(scene, orientation)
        assert overlay(stored, prediction) == overlay(scene, prediction)

    @pytest.mark.parametrize("name", ["Landscape", "Portrait"])
    def test_rotated_photos_give_the_picture_of_the_upright_one(
        self, archived: Callable[[str], dict[str, bytes]], name: str, rng: np.random.Generator
    ) -> None:
        photos = archived("exif-orientation.tar")
        upright, rotated = photos[f"{name}_1"], photos[f"{name}_6"]
        prediction = predicted(load_image(upright).shape, rng.random((8, 8)))
        expected, picture = (
            np.asarray(overlay(photo, prediction).reduce(8)).astype(int)
            for photo in (upright, rotated)
        )
        assert np.abs(picture - expected).mean() <= JPEG_TOLERANCE

    def test_only_the_crop_is_drawn_on_and_the_rest_is_dimmed(self) -> None:
        image = np.full((300, 420, 3), (200, 100, 50), np.uint8)
        crop = (41, 13, 321, 293)
        hot = np.ones((8, 8))
        hot[0, 0] = 0
        drawn = np.asarray(overlay(image, predicted(image.shape, hot, crop=crop)))[:300]
        outside = np.ones((300, 420), bool)
        outside[13:293, 41:321] = False
        assert (drawn[outside] == drawn[0, 0]).all()
        assert (drawn[0, 0] < image[0, 0] / 2).all()
        assert not (drawn[~outside] == drawn[0, 0]).all(axis=1).any()


class TestPicture:
    @pytest.mark.parametrize("value", [0.0, -3.5])
    def test_map_without_differences_leaves_the_photo_grey(self, value: float) -> None:
        image = plain(300, 300)
        drawn = np.asarray(overlay(image, predicted(image.shape, np.full((8, 8), value))))[:300]
        assert (drawn == drawn[0, 0, 0]).all()
        assert 0 < drawn[0, 0, 0] <= GREY

    def test_more_heat_is_brighter_and_more_colourful(self) -> None:
        image = plain(320, 320)
        ramp = np.repeat(np.arange(8.0)[np.newaxis], 8, axis=0)
        drawn = np.asarray(overlay(image, predicted(image.shape, ramp)))[100].astype(int)
        brightness = drawn @ [0.299, 0.587, 0.114]
        columns = [60, 120, 220, 300]  # the line half-way, at 150, is not among them
        assert (np.diff(brightness[columns]) > 0)[1:].all()
        assert (np.diff((drawn[:, 0] - drawn[:, 2])[columns]) > 0).all()

    def test_a_line_is_half_way_between_least_and_most(self) -> None:
        image = plain(320, 320)
        ramp = np.repeat(np.arange(8.0)[np.newaxis], 8, axis=0)
        drawn = np.asarray(overlay(image, predicted(image.shape, ramp)))[100]
        (line,) = np.nonzero((drawn == 255).all(axis=1))
        assert line == pytest.approx([(4 * 3.5 + 0.5) * 10], abs=POSITION_TOLERANCE)

    def test_default_model_marks_the_demo_photo(self, photo: Path) -> None:
        classify = Classifier(provider="cpu", threads=1)
        prediction = classify(photo)
        picture = overlay(photo, prediction, size=classify.info.preprocessing.size)
        assert (picture.mode, picture.width) == ("RGB", 451)
        assert picture.height > 300  # the strip is below the photo, not on it
        assert 75 <= hottest(np.asarray(picture)[:300])[1] <= 375  # inside of the crop
        assert overlay(photo.read_bytes(), prediction) == picture

    def test_bgr_arrays_look_like_rgb_ones(self, rng: np.random.Generator) -> None:
        image = rng.integers(0, 256, (270, 300, 3), dtype=np.uint8)
        prediction = predicted(image.shape, rng.random((8, 8)))
        swapped = np.ascontiguousarray(image[:, :, ::-1])
        assert overlay(swapped, prediction, bgr=True) == overlay(image, prediction)
        assert overlay(swapped, prediction) != overlay(image, prediction)

    def test_grey_and_transparent_images_are_drawn(self, rng: np.random.Generator) -> None:
        grey = rng.integers(0, 256, (270, 300), dtype=np.uint8)
        prediction = predicted(grey.shape, rng.random((8, 8)))
        stacked = np.repeat(grey[:, :, np.newaxis], 3, axis=2)
        assert overlay(grey, prediction) == overlay(stacked, prediction)
        clear = Image.new("RGBA", (300, 270), (0, 0, 0, 0))
        white = np.full((270, 300, 3), 255, np.uint8)
        assert overlay(clear, prediction) == overlay(white, prediction)

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ((32, 32), (256, 256)),
            ((20, 30), (240, 160)),
            ((100, 127), (254, 200)),
            ((300, 200), (200, 300)),
            ((1500, 4096), (MAX_SIDE, 750)),
            ((4097, 30), (15, MAX_SIDE)),
        ],
    )
    def test_small_photos_grow_by_a_whole_factor_and_large_ones_shrink(
        self, shape: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        image = np.full((*shape, 3), 255, np.uint8)
        drawn = np.asarray(overlay(image, predicted(shape, np.zeros((8, 8)))))
        photo = drawn.max(axis=2) >= 80  # white, dimmed at most; the strip is darker
        rows = np.flatnonzero(photo[:, 0])
        assert (photo[0].sum(), len(rows)) == expected
        assert drawn.shape[0] > expected[1]

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
    def test_strange_shapes_are_drawn(self, shape: tuple[int, int]) -> None:
        image = plain(*shape)
        picture = overlay(image, predicted(shape, one_hot(8, 3, 3)))
        assert min(picture.size) > 20
        assert max(picture.size) <= 2 * MAX_SIDE


class TestText:
    @pytest.fixture
    def strip(self) -> Callable[..., np.ndarray]:
        """The strip below a photo of a width, and nothing else of the picture."""

        def draw(label: str, width: int = 300, *, unknown: bool = False) -> np.ndarray:
            prediction = predicted((300, width), np.zeros((8, 8)), label=label, unknown=unknown)
            return np.asarray(overlay(plain(300, width), prediction))[300:]

        return draw

    def test_label_and_unknown_are_written(self, strip: Callable[..., np.ndarray]) -> None:
        cat, dog, unknown = strip("cat"), strip("dog"), strip("cat", unknown=True)
        for one, other in ((cat, dog), (cat, unknown), (dog, unknown)):
            assert one.max() == 255
            assert not np.array_equal(one, other)

    @pytest.mark.parametrize("width", [256, 300, 2000])
    @pytest.mark.parametrize(
        "label", ["a long label of sixty letters, with spaces " * 4, "W" * 200]
    )
    def test_long_label_is_cut_but_not_the_score(
        self, strip: Callable[..., np.ndarray], label: str, width: int
    ) -> None:
        drawn = strip(label, width)
        assert drawn.max() == 255
        assert drawn[:, -3:].max() < 64  # nothing runs over the edge
        longer = strip(label + "W", width)
        assert np.array_equal(drawn, longer)

    @pytest.mark.parametrize(
        ("label", "written"),
        [
            ("a\nb", "a\\nb"),
            ("\x1b[31mred", "\\x1b[31mred"),
            ("\u202egnp", "\\u202egnp"),
            ("café", "cafe"),
            ("猫", "\\u732b"),
            ("\ud800", "\\ud800"),
        ],
    )
    def test_what_cannot_be_drawn_is_escaped(
        self,
        strip: Callable[..., np.ndarray],
        label: str,
        written: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(heatmap, "find_font", lambda text: None)
        assert np.array_equal(strip(label), strip(written))


class TestErrors:
    def test_a_network_without_class_maps_has_no_heatmap(self) -> None:
        image = plain(20, 30)
        with pytest.raises(NinEdgeError, match="class maps are 1 x 1"):
            overlay(image, predicted(image.shape, np.ones((1, 1))))

    def test_prediction_of_another_image_is_refused(self) -> None:
        prediction = predicted((480, 640), np.zeros((8, 8)))
        with pytest.raises(ImageError, match=r"image of 64 x 48 pixels.*\(80, 0, 560, 480\)"):
            overlay(plain(48, 64), prediction)

    def test_unreadable_image_is_an_image_error(self) -> None:
        prediction = predicted((32, 32), np.zeros((8, 8)))
        with pytest.raises(ImageError, match=r"missing\.jpg: no such file"):
            overlay("missing.jpg", prediction)
        with pytest.raises(ImageError, match="more than the 1,000 allowed"):
            overlay(plain(32, 32), prediction, max_pixels=1000)

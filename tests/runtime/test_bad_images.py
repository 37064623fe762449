"""Any bytes, any array: a prediction or an `ImageError`, never anything else.

benchmarks/damage.py tries two thousand damaged images in child processes; here it is a few dozen.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, features

from nin_edge_runtime import Classifier, ImageError, Prediction
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.image import load_image

SUM_TOLERANCE = 1e-5
"""Largest difference of the probabilities' sum from 1."""

BATCH_TOLERANCE = 1e-5
"""Largest difference of a probability between an image alone and in a batch."""

REENCODED = 0.15
"""Largest difference of a probability between a photo and a JPEG of its rotated copy."""

PROPERTY = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
"""The same examples on every machine, and no database of them on the disk."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "ICO", "PPM", "TGA", "PCX", "QOI")
HEADS = (
    *(b"", b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\xff\xd8\xff\xe1\0\x20Exif\0\0MM\0*\0\0\0\x08"),
    *(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1", b"GIF89a", b"BM", b"II*\0\x08\0\0\0"),
    *(b"MM\0*\0\0\0\x08", b"RIFF\x40\0\0\0WEBPVP8 ", b"\0\0\0\x20ftypavif", b"P6 2 2 255\n"),
    *(b"qoif\0\0\0\2\0\0\0\2\3\0", b"\0\0\1\0\1\0", b"8BPS\0\1", b"DDS \x7c\0\0\0", b"icns"),
)
"""Headers that make a decoder read on."""


def check(prediction: Prediction) -> None:
    assert prediction.label in prediction.labels
    assert prediction.probabilities.sum() == pytest.approx(1, abs=SUM_TOLERANCE)
    left, top, right, bottom = prediction.crop
    assert 0 <= left < right
    assert 0 <= top < bottom
    assert right - left == bottom - top


def attempt(classify: Classifier, source: object) -> Prediction | ImageError:
    """Classify one input; any exception but `ImageError` fails the test."""
    try:
        prediction = classify(source)  # type: ignore[arg-type]
    except ImageError as error:
        return error
    check(prediction)
    return prediction


def try_bytes(classify: Classifier, data: bytes) -> None:
    """`classify` and `load_image` agree on whether these bytes are an image."""
    result = attempt(classify, data)
    if isinstance(result, ImageError):
        assert "\n" not in str(result)
        with pytest.raises(ImageError):
            load_image(data)
        return
    pixels = load_image(data)
    assert (pixels.ndim, pixels.shape[2], pixels.dtype) == (3, 3, np.uint8)
    left, top, right, bottom = result.crop
    assert right - left == bottom - top == min(pixels.shape[:2])


def small_files() -> list[bytes]:
    """A small picture in each format that Pillow writes here."""
    missing = {
        name
        for name, feature in {"WEBP": "webp", "AVIF": "avif"}.items()
        if feature not in features.get_supported()
    }
    Image.init()
    files = []
    for name in FORMATS:
        if name in Image.SAVE and name not in missing:
            buffer = io.BytesIO()
            Image.fromarray(golden_image(3, 20, 28)).save(buffer, name)
            files.append(buffer.getvalue())
    return files


SMALL_FILES = small_files()


@pytest.mark.exhaustive
class TestBytes:
    @PROPERTY
    @given(head=st.sampled_from(HEADS), data=st.binary(max_size=120))
    def test_random_bytes_after_a_valid_header(
        self, classify: Classifier, head: bytes, data: bytes
    ) -> None:
        try_bytes(classify, head + data)

    @PROPERTY
    @given(
        whole=st.sampled_from(SMALL_FILES),
        patches=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=4),
        kept=st.floats(0, 1) | st.just(1.0),
    )
    def test_files_with_bytes_replaced_and_cut_off(
        self, classify: Classifier, whole: bytes, patches: list[tuple[float, bytes]], kept: float
    ) -> None:
        broken = bytearray(whole)
        for position, patch in patches:
            start = int(position**2 * len(broken))  # more patches at the front, in the headers
            broken[start : start + len(patch)] = patch
        try_bytes(classify, bytes(broken[: int(kept * len(broken))]))

    @PROPERTY
    @given(data=st.binary(max_size=200), wrap=st.sampled_from([bytearray, memoryview, io.BytesIO]))
    def test_the_same_bytes_in_any_object_give_the_same(
        self, classify: Classifier, data: bytes, wrap: Callable[[bytes], object]
    ) -> None:
        for whole in (data, SMALL_FILES[1] + data):
            results = [attempt(classify, source) for source in (whole, wrap(whole))]
            assert len({getattr(result, "label", None) for result in results}) == 1


SHAPES = (
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=7)
    | st.tuples(st.integers(0, 40), st.integers(0, 40))
    | st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from([1, 2, 3, 4]))
)
DTYPES = (
    st.just(np.dtype(np.uint8))
    | hnp.scalar_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.array_dtypes(max_size=3)
    | st.just(np.dtype(object))
)
VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda array: array,
    "transposed": lambda array: array.T,
    "upside down": lambda array: array[::-1],
    "mirrored": lambda array: array[:, ::-1],
    "channels reversed": lambda array: array[..., ::-1],
    "every second row": lambda array: array[::2],
    "every second column": lambda array: array[:, ::2],
    "cropped": lambda array: array[1:-1, 2:],
    "Fortran's order": np.asfortranarray,
    "one row repeated": lambda array: np.broadcast_to(array[:1], array.shape),
    "one pixel repeated": lambda array: np.broadcast_to(array[:1, :1], array.shape),
    "three channels of one": lambda array: np.broadcast_to(array[..., :1], (*array.shape[:2], 3)),
    "other byte order": lambda array: array.view(array.dtype.newbyteorder()),
}


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array of any type and shape, often a view with odd strides, sometimes read-only."""
    dtype, shape = draw(DTYPES), draw(SHAPES)
    array = np.zeros(shape, dtype)
    if dtype == np.uint8:
        array = np.random.default_rng(draw(st.integers(0, 99))).integers(
            0, 256, shape, dtype=np.uint8
        )
    with suppress(IndexError, ValueError, TypeError):  # the shape does not have this view
        array = VIEWS[draw(st.sampled_from(list(VIEWS)))](array)
    if draw(st.booleans()):
        array.flags.writeable = False
    return array


@pytest.mark.exhaustive
class TestArrays:
    @settings(PROPERTY, max_examples=300)
    @given(array=arrays(), bgr=st.booleans())
    @example(array=np.zeros((2, 3, 3), ">u1"), bgr=False)
    @example(array=np.zeros((1, 1), np.uint8), bgr=True)
    @example(array=np.zeros((0, 0, 3), np.uint8), bgr=False)
    @example(array=np.broadcast_to(np.uint8(7), (50, 40, 3)), bgr=True)
    def test_any_array_is_classified_or_refused_and_left_as_it_was(
        self, classify: Classifier, array: np.ndarray, bgr: bool
    ) -> None:
        before, flags, strides = array.copy(), str(array.flags), array.strides
        image = array.dtype == np.uint8 and (
            array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
        )
        if image and array.size:
            prediction = classify(array, bgr=bgr)
            check(prediction)
            pixels = load_image(array, bgr=bgr)
            assert pixels.shape == (*array.shape[:2], 3)
            whole = classify(np.array(pixels, order="C"))
            np.testing.assert_array_equal(prediction.probabilities, whole.probabilities)
        else:
            for function in (classify, load_image):
                with pytest.raises(ImageError) as error:
                    function(array, bgr=bgr)
                assert "\n" not in str(error.value)
        assert (str(array.flags), array.strides) == (flags, strides)
        assert array.dtype == before.dtype
        if array.dtype.hasobject:
            assert (array == before).all()
        else:
            assert array.tobytes() == before.tobytes()

    @settings(PROPERTY, max_examples=60)
    @given(given_arrays=st.lists(arrays(), min_size=1, max_size=5), size=st.integers(1, 4))
    def test_a_stream_gives_one_result_for_each(
        self, classify: Classifier, given_arrays: list[np.ndarray], size: int
    ) -> None:
        assume(sum(array.size for array in given_arrays) < 10_000)
        results = list(classify.stream(given_arrays, batch_size=size))
        assert len(results) == len(given_arrays)
        for array, result in zip(given_arrays, results, strict=True):
            alone = attempt(classify, array)
            if isinstance(alone, ImageError):
                assert isinstance(result, ImageError)
                assert str(result) == str(alone)
            else:
                assert isinstance(result, Prediction)
                np.testing.assert_allclose(
                    result.probabilities, alone.probabilities, rtol=0, atol=BATCH_TOLERANCE
                )


CHILD = """
import sys
from pathlib import Path
from nin_edge_runtime import Classifier, ImageError
classify = Classifier(provider="cpu", threads=1)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        classify(path)
    except ImageError:
        print("refused")
    else:
        print("classified")
"""


@pytest.mark.exhaustive
class TestNativeDecoders:
    def test_damaged_photos_crash_no_process(
        self,
        photo: Path,
        rng: np.random.Generator,
        tmp_path: Path,
        run_python: Callable[..., subprocess.CompletedProcess[str]],
    ) -> None:
        files = [photo.read_bytes(), *SMALL_FILES]
        for index in range(72):
            broken = bytearray(files[index % len(files)])
            reach = min(len(broken), 512 if index % 2 else len(broken))
            for _ in range(rng.integers(1, 9)):
                broken[rng.integers(0, reach)] ^= 1 << int(rng.integers(8))
            kept = len(broken) if index % 3 else int(rng.integers(1, len(broken)))
            (tmp_path / f"{index:02}.img").write_bytes(broken[:kept])
        done = run_python(CHILD, tmp_path)
        assert done.returncode == 0, done.stderr
        results = done.stdout.split()
        assert len(results) == 72
        assert set(results) == {"refused", "classified"}


class TestRealFiles:
    def test_pngsuite_gives_predictions_or_image_errors_alone(
        self, archived: Callable[[str], dict[str, bytes]], classify: Classifier
    ) -> None:
        images = archived("pngsuite.tar.xz")
        results = {name: attempt(classify, data) for name, data in images.items()}
        refused = [name for name, result in results.items() if isinstance(result, ImageError)]
        assert len(results) - len(refused) > 100
        assert len(refused) > 10
        assert all(name.startswith("x") for name in refused)  # the suite's own mark of broken files

    @pytest.mark.parametrize("scene", ["Landscape", "Portrait"])
    def test_photos_of_every_orientation_give_the_upright_answer(
        self, archived: Callable[[str], dict[str, bytes]], scene: str
    ) -> None:
        classify = Classifier(provider="cpu", threads=1)
        photos = archived("exif-orientation.tar")
        upright = classify(photos[f"{scene}_0"])
        for orientation in range(1, 9):
            prediction = classify(photos[f"{scene}_{orientation}"])
            difference = np.abs(prediction.probabilities - upright.probabilities).max()
            assert difference <= REENCODED
            assert prediction.crop == upright.crop

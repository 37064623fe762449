"""Streams: order, errors in their places, bounded reading ahead, and a clean end."""

from __future__ import annotations

import gc
import io
import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nin_edge_runtime import Classifier, ImageError, Prediction
from nin_edge_runtime.golden import golden_image

BATCH_TOLERANCE = 1e-5
"""Largest difference of a probability between an image alone and in a batch."""
SOURCE_SECONDS = 5.0
"""How long a stream may take to let go of its source and threads once it is closed."""

SIZES = ((16, 16), (24, 40), (61, 33), (7, 9), (200, 150))
FILES = 40


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [golden_image(seed, *size) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images, some of which take far longer to decode than others."""
    folder, paths = tmp_path_factory.mktemp("files"), []
    for seed in range(FILES):
        side = 400 if seed % 7 == 0 else 20
        paths.append(folder / f"{seed}.png")
        Image.fromarray(golden_image(seed, side, side + seed)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def expected(classify: Classifier, files: list[Path]) -> list[np.ndarray]:
    """Each file's probabilities from a call of its own."""
    return [classify(path).probabilities for path in files]


def own_threads() -> int:
    """How many threads of streams there are."""
    return sum(thread.name.startswith("nin-edge") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 1, 3])
class TestStream:
    @pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
    def test_it_keeps_the_order_with_errors_in_their_places(
        self, classify: Classifier, images: list[np.ndarray], batch_size: int, workers: int
    ) -> None:
        mixed = [images[0], "missing.jpg", *images[1:3], b"", b"text", *images[3:]]
        given = list(classify.stream(mixed, batch_size=batch_size, workers=workers))
        assert [isinstance(one, ImageError) for one in given] == [
            not isinstance(one, np.ndarray) for one in mixed
        ]
        for one, expected in zip(
            (one for one in given if isinstance(one, Prediction)),
            classify.batch(images),
            strict=True,
        ):
            assert one.crop == expected.crop
            np.testing.assert_allclose(
                one.probabilities, expected.probabilities, rtol=0, atol=BATCH_TOLERANCE
            )
        assert "missing.jpg" in str(given[1])

    def test_many_files_come_back_in_their_order(
        self, classify: Classifier, files: list[Path], expected: list[np.ndarray], workers: int
    ) -> None:
        streamed = classify.stream(files, batch_size=3, workers=workers)
        for one, probabilities in zip(streamed, expected, strict=True):
            assert isinstance(one, Prediction)
            np.testing.assert_allclose(
                one.probabilities, probabilities, rtol=0, atol=BATCH_TOLERANCE
            )

    def test_nothing_gives_nothing(self, classify: Classifier, workers: int) -> None:
        assert list(classify.stream([], batch_size=4, workers=workers)) == []

    def test_bad_images_alone_give_errors_alone(self, classify: Classifier, workers: int) -> None:
        given = list(classify.stream([b"", b"x", b""], batch_size=2, workers=workers))
        assert [type(one) for one in given] == [ImageError] * 3

    def test_errors_do_not_keep_their_images(
        self, classify: Classifier, files: list[Path], workers: int
    ) -> None:
        class Encoded(io.BytesIO):
            """Of a class that can be watched."""

        images = [Encoded(path.read_bytes()[:-100]) for path in files[:3]]
        watched = [weakref.ref(image) for image in images]
        gc.collect()
        gc.disable()  # counting references is enough
        try:
            found = list(classify.stream(iter(images), workers=workers))
            del images
            assert [type(error) for error in found] == [ImageError] * 3
            assert [image() for image in watched] == [None] * 3
        finally:
            gc.enable()

    def test_an_endless_source_is_read_ahead_by_a_bounded_number(
        self, classify: Classifier, workers: int
    ) -> None:
        taken = 0

        def camera() -> Iterator[np.ndarray]:
            nonlocal taken
            for seed in itertools.count():
                taken += 1
                yield golden_image(seed, 16, 16)

        stream = classify.stream(camera(), batch_size=4, workers=workers)
        assert taken == 0
        for seen, _ in enumerate(itertools.islice(stream, 50), start=1):
            given_out = 4 * ((seen + 3) // 4)
            ahead = 4 * max(0, 2 * workers - 1)
            assert taken == given_out + ahead

    def test_closing_it_ends_the_threads_and_the_source(
        self, classify: Classifier, workers: int
    ) -> None:
        closed = []

        def camera() -> Iterator[np.ndarray]:
            try:
                for seed in itertools.count():
                    yield golden_image(seed, 16, 16)
            finally:
                closed.append(True)

        stream = classify.stream(camera(), batch_size=2, workers=workers)
        next(stream)
        assert min(workers, 1) <= own_threads() <= workers  # an idle one takes the next task
        started = time.monotonic()
        stream.close()
        assert closed
        assert own_threads() == 0
        assert time.monotonic() - started < SOURCE_SECONDS

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_an_error_of_the_source_comes_after_the_answers_before_it(
        self, classify: Classifier, batch_size: int, workers: int
    ) -> None:
        def camera() -> Iterator[np.ndarray]:
            for seed in range(5):
                yield golden_image(seed, 16, 16)
            raise OSError("unplugged")

        stream = classify.stream(camera(), batch_size=batch_size, workers=workers)
        assert len(list(itertools.islice(stream, 5))) == 5
        with pytest.raises(OSError, match="unplugged"):
            next(stream)
        assert own_threads() == 0

    def test_numbers_out_of_range_are_refused_at_once(
        self, classify: Classifier, workers: int
    ) -> None:
        for batch_size in (0, -1):
            with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
                classify.stream([], batch_size=batch_size, workers=workers)
        with pytest.raises(ValueError, match="workers is -1"):
            classify.stream([], workers=-1)

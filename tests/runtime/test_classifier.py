"""The classifier: predictions, the inputs it takes, its settings, and the default model."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from nin_edge_runtime import (
    DEFAULT_MODEL,
    Classifier,
    ImageError,
    ModelFileError,
    read_model,
)
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.verify import replay

SUM_TOLERANCE = 1e-5
"""Largest difference of the probabilities' sum from 1."""
SOFTMAX_TOLERANCE = 1e-6
"""Largest difference of a probability from the softmax of the averaged maps."""
BATCH_TOLERANCE = 1e-5
"""The same, between an image alone and in a batch: kernels round differently."""
DRAFT_TOLERANCE = 5e-2
"""The same, between a large JPEG decoded at a reduced scale and at the full one."""

CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SIZES = ((16, 16), (24, 40), (61, 33), (7, 9), (200, 150))
FORK_EXIT = 7


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [golden_image(seed, *size) for seed, size in enumerate(SIZES)]


def outputs(model: Path, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K,) and class maps (K, h, w) from ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    probabilities, maps = session.run(["probabilities", "class_maps"], {"image": image[np.newaxis]})
    return probabilities[0], maps[0]


class TestPrediction:
    def test_label_and_score_are_the_most_probable(
        self, classify: Classifier, images: list[np.ndarray]
    ) -> None:
        for image in images:
            prediction = classify(image)
            best = int(prediction.probabilities.argmax())
            assert prediction.labels == classify.labels == ("circle", "square", "étoile")
            assert prediction.label == prediction.labels[best]
            assert prediction.score == float(prediction.probabilities[best])
            assert not prediction.unknown

    def test_probabilities_sum_to_one(self, classify: Classifier, images: list[np.ndarray]) -> None:
        for image in images:
            probabilities = classify(image).probabilities
            assert probabilities.dtype == np.float32
            assert probabilities.sum() == pytest.approx(1, abs=SUM_TOLERANCE)

    def test_top_is_sorted_and_of_the_length_asked(self, classify: Classifier) -> None:
        prediction = classify(golden_image(0, 16, 16))
        top = prediction.top(3)
        assert top[0] == (prediction.label, prediction.score)
        assert [score for _, score in top] == sorted(prediction.probabilities.tolist())[::-1]
        assert {label for label, _ in top} == set(prediction.labels)
        assert prediction.top(2) == top[:2]
        assert prediction.top(100) == top
        assert prediction.top(0) == prediction.top(-1) == []

    def test_probabilities_are_the_softmax_of_the_averaged_maps(
        self, tiny_model: Path, classify: Classifier, images: list[np.ndarray]
    ) -> None:
        for image in images:
            probabilities, maps = outputs(tiny_model, image)
            logits = maps.astype(np.float64).mean((1, 2)) / classify.info.temperature
            softmax = np.exp(logits - logits.max())
            np.testing.assert_allclose(
                probabilities, softmax / softmax.sum(), rtol=0, atol=SOFTMAX_TOLERANCE
            )
            found = classify.graph(image[np.newaxis])
            np.testing.assert_array_equal(found.probabilities[0], probabilities)
            np.testing.assert_array_equal(found.class_maps[0], maps)

    def test_the_class_map_is_a_copy_of_the_best_classs_map(
        self, tiny_model: Path, classify: Classifier, images: list[np.ndarray]
    ) -> None:
        for prediction in (classify(images[0]), classify.batch(images[:2])[0]):
            _, maps = outputs(tiny_model, images[0])
            best = prediction.labels.index(prediction.label)
            assert prediction.class_map.shape == maps[best].shape == (4, 4)
            assert prediction.class_map.base is None
            np.testing.assert_allclose(
                prediction.class_map, maps[best], rtol=BATCH_TOLERANCE, atol=BATCH_TOLERANCE
            )

    def test_crop_is_the_centre_square_of_the_upright_image(self, classify: Classifier) -> None:
        image = Image.fromarray(golden_image(1, 30, 51))
        assert classify(image).crop == (10, 0, 40, 30)
        image.getexif()[0x0112] = 6
        assert classify(image).crop == (0, 10, 30, 40)
        assert [one.crop for one in classify.batch([image, golden_image(1, 9, 9)])] == [
            (0, 10, 30, 40),
            (0, 0, 9, 9),
        ]


class TestSources:
    def test_path_bytes_file_pil_and_array_agree(
        self, classify: Classifier, tmp_path: Path
    ) -> None:
        pixels = golden_image(3, 40, 30)
        path = tmp_path / "photo.png"
        Image.fromarray(pixels).save(path)
        data = path.read_bytes()
        expected = classify(pixels).probabilities
        sources = (path, str(path), data, bytearray(data), io.BytesIO(data), Image.open(path))
        for source in sources:
            np.testing.assert_array_equal(classify(source).probabilities, expected)
        sources[-1].close()

    def test_bgr_is_honoured_everywhere(self, classify: Classifier) -> None:
        pixels = golden_image(4, 16, 16)
        expected, swapped = classify(pixels), pixels[:, :, ::-1]
        assert classify(swapped, bgr=True).score == expected.score
        assert classify(swapped).score != expected.score
        for given in (classify.batch([swapped], bgr=True), classify.stream([swapped], bgr=True)):
            assert next(iter(given)).score == pytest.approx(expected.score, abs=BATCH_TOLERANCE)

    def test_a_bad_image_is_named(self, classify: Classifier, tmp_path: Path) -> None:
        path = tmp_path / "missing.jpg"
        with pytest.raises(ImageError, match=r"missing\.jpg"):
            classify(path)


class TestEmbedding:
    @pytest.mark.parametrize(
        ("name", "others"), [("format-1", ["normalize", "none"]), ("grey", ["grey-none"])]
    )
    @pytest.mark.parametrize("size", SIZES)
    def test_every_way_of_embedding_gives_the_same_answer(
        self, tiny_model: Path, name: str, others: list[str], size: tuple[int, int]
    ) -> None:
        image = golden_image(11, *size)
        full, *rest = (
            Classifier(tiny_model.with_name(f"{one}.fp32.onnx"), provider="cpu", threads=1)
            for one in (name, *others)
        )
        expected = full(image).probabilities
        for classify in rest:
            for prediction in (classify(image), classify.batch([image])[0]):
                np.testing.assert_allclose(
                    prediction.probabilities, expected, rtol=0, atol=BATCH_TOLERANCE
                )

    def test_a_grey_network_sees_luma_alone(self, tiny_model: Path) -> None:
        classify = Classifier(tiny_model.with_name("grey.fp32.onnx"), provider="cpu", threads=1)
        pixels = golden_image(12, 24, 24)
        luma = np.asarray(Image.fromarray(pixels).convert("L"))
        np.testing.assert_allclose(
            classify(luma).probabilities,
            classify(pixels).probabilities,
            rtol=0,
            atol=BATCH_TOLERANCE,
        )


class TestBatch:
    @pytest.mark.parametrize("name", ["format-1", "normalize", "none", "grey", "grey-none"])
    def test_a_batch_of_many_sizes_equals_single_images(
        self, tiny_model: Path, images: list[np.ndarray], name: str
    ) -> None:
        classify = Classifier(tiny_model.with_name(f"{name}.fp32.onnx"), provider="cpu", threads=1)
        for image, prediction in zip(images, classify.batch(images), strict=True):
            np.testing.assert_allclose(
                prediction.probabilities,
                classify(image).probabilities,
                rtol=0,
                atol=BATCH_TOLERANCE,
            )

    def test_an_empty_batch_is_empty(self, classify: Classifier) -> None:
        assert classify.batch([]) == []

    def test_a_bad_image_is_named_by_its_index(self, classify: Classifier) -> None:
        with pytest.raises(ImageError, match=r"image 1: .*missing\.jpg"):
            classify.batch([golden_image(0, 8, 8), "missing.jpg", b""])


class TestSettings:
    def test_min_score_marks_unknown_and_keeps_the_label(self, tiny_model: Path) -> None:
        image = golden_image(320, 64, 48)
        plain = Classifier(tiny_model, provider="cpu", threads=1)(image)
        assert 0.5 < plain.score < 0.9
        for min_score, unknown in ((0.9, True), (0.5, False), (plain.score, False), (0, False)):
            classify = Classifier(tiny_model, provider="cpu", threads=1, min_score=min_score)
            prediction = classify(image)
            assert prediction.unknown is unknown
            assert (prediction.label, prediction.score) == (plain.label, plain.score)

    @pytest.mark.parametrize("min_score", [-0.1, 1.1, 50, float("nan")])
    def test_min_score_is_a_probability(self, tiny_model: Path, min_score: float) -> None:
        with pytest.raises(ValueError, match=f"min_score is {min_score}"):
            Classifier(tiny_model, min_score=min_score)

    @pytest.mark.parametrize("one", ["photo.jpg", b"bytes", Path("photo.jpg"), None, 3])
    def test_one_image_is_not_several(self, classify: Classifier, one: Any) -> None:
        with pytest.raises(TypeError, match="expected several images"):
            classify.stream(one)
        with pytest.raises(TypeError, match="expected several images"):
            classify.batch(one)

    @pytest.mark.parametrize("most", [0, -2])
    def test_a_limit_of_no_pixels_is_refused(self, tiny_model: Path, most: int) -> None:
        with pytest.raises(ValueError, match=f"max_pixels is {most}"):
            Classifier(tiny_model, max_pixels=most)

    def test_max_pixels_is_the_largest_image_taken(self, tiny_model: Path) -> None:
        classify = Classifier(tiny_model, provider="cpu", threads=1, max_pixels=600)
        image = golden_image(3, 20, 30)
        for source in (image, Image.fromarray(image)):
            assert classify(source).label
        large = golden_image(3, 20, 31)
        for source in (large, Image.fromarray(large)):
            with pytest.raises(ImageError, match="31 x 20 pixels, more than the 600 allowed"):
                classify(source)

    @pytest.mark.parametrize("orientation", [1, 6])
    def test_a_draft_is_close_and_keeps_the_full_size_crop(
        self, tiny_model: Path, tmp_path: Path, orientation: int
    ) -> None:
        path = tmp_path / "large.jpg"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(golden_image(12, 1201, 2003)).save(path, quality=95, exif=exif)
        fast, exact = (
            Classifier(tiny_model, provider="cpu", threads=1, draft=draft)
            for draft in (True, False)
        )
        drafted, decoded = fast(path), exact(path)
        assert (
            drafted.crop
            == decoded.crop
            == ((401, 0, 1602, 1201) if orientation == 1 else (0, 401, 1201, 1602))
        )
        difference = np.abs(drafted.probabilities - decoded.probabilities).max()
        assert 0 < difference <= DRAFT_TOLERANCE

    def test_a_small_jpeg_is_decoded_exactly(
        self, classify: Classifier, tiny_model: Path, photo: Path
    ) -> None:
        small = io.BytesIO()
        Image.open(photo).resize((300, 255)).save(small, "JPEG")
        exact = Classifier(tiny_model, provider="cpu", threads=1, draft=False)
        np.testing.assert_array_equal(
            classify(small.getvalue()).probabilities, exact(small.getvalue()).probabilities
        )

    def test_a_model_may_be_path_string_or_bytes(
        self, tiny_model: Path, tiny_bytes: bytes, classify: Classifier
    ) -> None:
        image = golden_image(2, 20, 30)
        for model in (tiny_model, str(tiny_model), tiny_bytes):
            same = Classifier(model, provider="cpu", threads=1)
            np.testing.assert_array_equal(same(image).probabilities, classify(image).probabilities)
            assert same.info == read_model(tiny_model)[1]
            assert same.provider == "cpu"

    def test_a_bad_model_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"missing\.onnx"):
            Classifier(tmp_path / "missing.onnx")


class TestProcesses:
    def test_eight_threads_share_one_classifier(self, classify: Classifier) -> None:
        images = [golden_image(seed, 16 + seed % 5, 20) for seed in range(80)]
        serial = [classify(image).probabilities for image in images]
        with ThreadPoolExecutor(8) as pool:
            parallel = [one.probabilities for one in pool.map(classify, images)]
        np.testing.assert_array_equal(parallel, serial)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_is_told_to_make_its_own(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]], tiny_model: Path
    ) -> None:
        script = (
            "import os, sys, warnings\n"
            "import numpy as np\n"
            "from nin_edge_runtime import Classifier, NinEdgeError\n"
            "warnings.simplefilter('ignore', DeprecationWarning)\n"
            "classify = Classifier(sys.argv[1], provider='cpu', threads=1)\n"
            "image = np.zeros((16, 16, 3), np.uint8)\n"
            "classify(image)\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    try:\n"
            "        classify(image)\n"
            "    except NinEdgeError as error:\n"
            f"        os._exit({FORK_EXIT} if 'fork' in str(error) else 1)\n"
            "    os._exit(0)\n"
            "classify(image)\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        )
        done = run_python(script, tiny_model)
        assert done.stdout == f"{FORK_EXIT}\n", done.stderr

    def test_classifying_imports_nothing_of_the_toolkit(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]], tiny_model: Path
    ) -> None:
        script = (
            "import sys\n"
            "import numpy as np\n"
            "from nin_edge_runtime import Classifier\n"
            "Classifier(sys.argv[1], provider='cpu')(np.zeros((20, 30, 3), np.uint8))\n"
            "banned = {'torch', 'onnx', 'click', 'nin_edge', 'nin_edge_export'}\n"
            "print(sorted(banned & set(sys.modules)))\n"
        )
        done = run_python(script, tiny_model)
        assert done.stdout == "[]\n", done.stderr
        assert done.stderr == ""


@pytest.fixture(scope="module")
def default() -> Classifier:
    return Classifier(provider="cpu", threads=1)


class TestDefaultModel:
    def test_it_is_an_honest_cifar10_model(self, default: Classifier) -> None:
        assert DEFAULT_MODEL.is_file()
        info = default.info
        assert info.labels == CIFAR10
        assert (info.preprocessing.size, info.preprocessing.channels) == (32, 3)
        assert info.embedded == "full"
        assert "CIFAR-10" in info.data["name"]
        assert info.certificate.accuracy is not None

    def test_it_replays_its_golden_samples(self, default: Classifier) -> None:
        assert replay(default).count == 8

    def test_at_least_four_golden_answers_are_firm(self, default: Classifier) -> None:
        ordered = np.sort(default.info.golden.file, axis=1)
        assert np.count_nonzero(ordered[:, -1] - ordered[:, -2] >= 0.2) >= 4

    def test_it_sees_a_cat_on_the_demo_photo(self, default: Classifier, photo: Path) -> None:
        prediction = default(photo)
        assert prediction.label == "cat"
        assert len(prediction.top(5)) == 5

    def test_it_sees_the_same_in_a_batch(self, default: Classifier, photo: Path) -> None:
        assert default.batch([photo])[0].score == pytest.approx(
            default(photo).score, abs=BATCH_TOLERANCE
        )

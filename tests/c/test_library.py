"""The C library: its own tests, and bit for bit the Python runtime's predictions."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import _c
from nin_edge.checkpoint import Checkpoint
from nin_edge_export import ExportOptions, export_models
from nin_edge_runtime import Classifier
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.model_file.read import file_sha256, find_sha256

pytestmark = pytest.mark.usefixtures("programs")

MODELS = ("format-1", "normalize", "none", "grey", "grey-none")
SIZES = ((16, 16), (1, 1), (31, 20), (7, 300), (120, 161), (333, 250))
CASES = json.loads((Path(__file__).parents[1] / "data" / "metadata_cases.json").read_text("utf-8"))
READ = ("format_version", "labels", "preprocessing", "precision", "temperature", "golden")
"""Metadata that the C library checks for more than being JSON."""


def test_the_librarys_own_tests_pass(programs: Path) -> None:
    done = subprocess.run(
        # valgrind takes half a minute: `make c` runs it.
        ["ctest", "--output-on-failure", "--exclude-regex", "valgrind"],
        cwd=programs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "100% tests passed, 0 tests failed out of 1" in done.stdout


def assert_equal_to_python(model: Path, images: list[np.ndarray]) -> _c.Outputs:
    found, classify = _c.classify(model, images), Classifier(model, provider="cpu", threads=1)
    for row, image in enumerate(images):
        expected = classify(image)
        assert np.array_equal(found.probabilities[row], expected.probabilities)
        assert np.array_equal(found.maps[row], expected.class_map.ravel())
        assert classify.labels[found.indices[row]] == expected.label
    return found


@pytest.mark.parametrize("name", MODELS)
def test_predictions_of_images_of_any_size_equal_pythons_bit_for_bit(
    name: str, tiny_model: Path, rng: np.random.Generator
) -> None:
    drawn = [golden_image(seed, *size) for seed, size in enumerate(SIZES)]
    noise = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    assert_equal_to_python(tiny_model.with_name(f"{name}.fp32.onnx"), [*drawn, *noise])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_predictions_of_the_default_weights_equal_pythons_in_all_precisions(
    precision: str, default_exports: Mapping[str, Path]
) -> None:
    images = [golden_image(1, 40, 50), golden_image(2, 32, 32)]
    assert assert_equal_to_python(default_exports[precision], images).verified < 1e-6


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return Checkpoint.load(tiny_weights)


def test_a_convolution_that_int8_left_in_float_stays_in_float(float_layer_model: Path) -> None:
    """ONNX Runtime by itself would quantise it again (WeightBiasQuantization)."""
    assert_equal_to_python(float_layer_model, [golden_image(seed, 16, 16) for seed in range(20)])


@pytest.mark.parametrize("embedded", ["full", "none"])
def test_a_file_of_a_fixed_batch_takes_single_images(
    checkpoint: Checkpoint, embedded: str, tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("fp32",), embedded=embedded, batch=3)
    (exported,) = export_models(checkpoint, options)
    (model := tmp_path / "fixed.onnx").write_bytes(exported.data)
    images = [golden_image(seed, 24, 30) for seed in range(4)]
    assert assert_equal_to_python(model, images).verified < 1e-6


def with_metadata(data: bytes, key: str, value: str) -> bytes:
    """A model file with another value of a key, and the SHA-256 that fits it."""
    model = onnx.load_from_string(data)
    for entry in model.metadata_props:
        if entry.key == f"nin_edge.{key}":
            entry.value = value
    changed: bytes = model.SerializeToString()
    digits = find_sha256(changed)
    assert digits is not None
    digest = file_sha256(changed, digits).encode()
    return changed[: digits.start] + digest + changed[digits.stop :]


def opened(programs: Path, paths: list[Path]) -> list[str]:
    """What the library says of files: `good`, or the error's message."""
    command = [programs / "probe", "open", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_metadata_is_taken_and_refused_as_every_reader_does(
    programs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    cases = [case for case in CASES if case["taken"] or case["key"] in READ]
    assert len(cases) > 70
    paths = [tmp_path / f"{index}.onnx" for index in range(len(cases))]
    for path, case in zip(paths, cases, strict=True):
        path.write_bytes(with_metadata(tiny_model.read_bytes(), case["key"], case["json"]))
    lines = opened(programs, paths)
    for line, path, case in zip(lines, paths, cases, strict=True):
        assert (line == "good") is case["taken"], (line, case)
        assert case["taken"] or line.startswith(f"{path}: "), line


def test_a_newer_format_is_refused_naming_both(
    programs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (path := tmp_path / "newer.onnx").write_bytes(
        with_metadata(tiny_model.read_bytes(), "format_version", "7")
    )
    (line,) = opened(programs, [path])
    assert "model format 7" in line
    assert "reads up to 1: update it" in line


def label(program: Path, *arguments: object, given: bytes = b"") -> tuple[int, str, str]:
    """Exit code, standard output and error of an example."""
    command = [str(part) for part in (program, *arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_example_labels_a_folder_of_jpegs_and_names_a_broken_one(
    programs: Path, default_exports: Mapping[str, Path], photo: Path, tmp_path: Path
) -> None:
    program = programs / "classify_jpeg"
    if not program.exists():
        pytest.skip("libjpeg-turbo is not installed")
    shutil.copy(photo, tmp_path / "b.jpg")
    (tmp_path / "a.jpeg").write_bytes(b"no JPEG")
    (tmp_path / "c.txt").write_text("not looked at")
    model = default_exports["int8"]
    code, output, errors = label(program, model, tmp_path, photo)
    prediction = Classifier(model, provider="cpu")(photo)
    expected = f"{prediction.label} {prediction.score:.1%}"
    assert output.splitlines() == [f"{tmp_path / 'b.jpg'}: {expected}", f"{photo}: {expected}"]
    assert code == 1
    assert errors.startswith(f"{tmp_path / 'a.jpeg'}: not a JPEG that can be read")
    assert label(program, tmp_path / "none.onnx", photo)[0] == 1


def test_the_example_labels_raw_frames_and_names_a_short_one(
    programs: Path, tiny_model: Path
) -> None:
    frames = [golden_image(seed, 48, 64) for seed in range(3)]
    given = b"".join(frame.tobytes() for frame in frames)
    classify = Classifier(tiny_model, provider="cpu")
    expected = [f"{found.label} {found.score:.1%}" for found in map(classify, frames)]
    code, output, errors = label(programs / "raw_frames", tiny_model, 64, 48, given=given)
    assert (code, output.splitlines(), errors) == (0, expected, "")
    code, output, errors = label(programs / "raw_frames", tiny_model, 64, 48, given=given[:-1])
    assert (code, output.splitlines()) == (1, expected[:2])
    assert "ends inside a frame: 9215 bytes, expected 9216" in errors
    assert label(programs / "raw_frames", tiny_model, "64x", 48)[0] == 2


def test_an_installed_library_is_found_by_pkg_config(
    programs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not installed")
    prefix = tmp_path / "installed"
    subprocess.run(
        ["cmake", "--install", programs, "--prefix", prefix], check=True, capture_output=True
    )
    (described,) = prefix.rglob("nin-edge.pc")
    flags = subprocess.run(
        ["pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", described],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    example = Path(__file__).parents[2] / "examples" / "c" / "raw_frames.c"
    program = tmp_path / "raw_frames"
    subprocess.run(["cc", "-std=c11", example, "-o", program, *flags], check=True)
    frame = golden_image(0, 16, 16).tobytes()
    done = subprocess.run(
        [program, tiny_model, "16", "16"],
        input=frame,
        env={"LD_LIBRARY_PATH": str(programs / "onnxruntime")},
        capture_output=True,
        check=True,
    )
    assert done.stdout.count(b"\n") == 1

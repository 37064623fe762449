"""The page on the model file against the files, the runtime and the export."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from nin_edge_export.graph import IR_VERSION, OPSET
from nin_edge_export.parity import TOLERANCES as EXPORT_TOLERANCES
from nin_edge_runtime import DEFAULT_MODEL, Classifier
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.image import load_image
from nin_edge_runtime.model_file import FORMAT_VERSION
from nin_edge_runtime.preprocessing import Preprocessing
from nin_edge_runtime.verify import TOLERANCES

if TYPE_CHECKING:
    from tests.docs.conftest import Page

MODELS = sorted((Path(__file__).parents[1] / "data").glob("*.onnx"))

SCORE_TOLERANCE = 2e-3
"""The reader leaves crop and resize to the graph, which rounds otherwise than Pillow."""


@pytest.fixture
def run_reader(
    contract: Page, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], None]:
    """Runs the page's reader as `python reader.py model.onnx photo.jpg`."""

    def run(model: Path) -> None:
        shutil.copy(model, tmp_path / "model.onnx")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["reader.py", "model.onnx", str(photo)])
        exec(contract.python()[-1].text, {"__name__": "__main__"})

    return run


def test_reader_gives_the_classifiers_prediction(
    run_reader: Callable[[Path], None], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_reader(DEFAULT_MODEL)
    printed = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    expected = Classifier()(photo).top(5)
    assert [label for _, label in printed] == [label for label, _ in expected]
    for (score, _), (_, probability) in zip(printed, expected, strict=True):
        assert float(score) == pytest.approx(probability, abs=SCORE_TOLERANCE)


def test_reader_refuses_a_file_that_does_not_resize(run_reader: Callable[[Path], None]) -> None:
    with pytest.raises(SystemExit, match=r"model\.onnx: its graph does not crop and resize"):
        run_reader(next(path for path in MODELS if path.stem == "none.fp32"))


def test_reader_is_twenty_lines_of_onnxruntime_numpy_pillow_and_json(contract: Page) -> None:
    reader = contract.python()[-1].text
    assert len([line for line in reader.split("\n") if line]) <= 20
    imported = set()
    for node in ast.walk(ast.parse(reader)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_preprocessing_of_the_page_is_the_runtimes(
    model: Path, contract: Page, photo: Path, rng: np.random.Generator
) -> None:
    (block,) = (block for block in contract.python() if "def prepared" in block.text)
    names: dict[str, Any] = {}
    exec(block.text, names)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    steps = json.loads(metadata["nin_edge.preprocessing"])
    classify = Classifier(model)
    for pixels in (load_image(photo), rng.integers(0, 256, (31, 20, 3), dtype=np.uint8)):
        fed = names["prepared"](Image.fromarray(pixels), steps)
        probabilities, maps = session.run(["probabilities", "class_maps"], {"image": fed})
        assert np.array_equal(probabilities[0], classify(pixels).probabilities)
        logits = maps.mean((2, 3), dtype=np.float64)[0] / json.loads(
            metadata["nin_edge.temperature"]
        )
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert np.allclose(softmax, probabilities[0], rtol=0, atol=1e-6)


def _fields(value: Any) -> Iterator[str]:
    """Names of the fields of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _fields(inner)


@pytest.mark.parametrize("model", [*MODELS, DEFAULT_MODEL], ids=lambda path: path.stem)
def test_every_metadata_key_and_field_is_described(model: Path, contract: Page) -> None:
    page = contract.prose
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    described = re.findall(r"^\| `(nin_edge\.\w+)` \|", page, re.MULTILINE)
    assert sorted(described) == sorted({*metadata, "nin_edge.engines"})  # older files lack it
    for key, text in metadata.items():
        for name in _fields(json.loads(text)):
            assert f"`{name}`" in page, f"the field {name} of {key}"


def _vectors(contract: Page, last: str) -> list[list[str]]:
    """Cells of the table of test vectors whose last column has this title."""
    table = re.search(
        rf"^\| seed .*\| {last} \|\n\|[-|]+\n((?:\|.*\n)+)", contract.prose, re.MULTILINE
    )
    assert table
    rows = [line.strip("| ").split(" | ") for line in table[1].splitlines()]
    assert len(rows) >= 6
    return [[cell.strip("`") for cell in row] for row in rows]


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def test_vectors_of_the_golden_formula_are_the_runtimes(contract: Page) -> None:
    for seed, size, expected in _vectors(contract, "SHA-256 of the image"):
        height, width = map(int, size.split(" x "))
        assert _digest(golden_image(int(seed), height, width)) == expected


def test_vectors_of_the_resize_are_the_runtimes(contract: Page) -> None:
    for seed, sides, size, channels, expected in _vectors(contract, "SHA-256 of the resized image"):
        height, width = map(int, sides.split(" x "))
        ones = (1.0,) * int(channels)
        steps = Preprocessing(int(size), int(channels), mean=ones, std=ones)
        assert _digest(steps.resize(golden_image(int(seed), height, width))) == expected


@pytest.mark.parametrize("model", [*MODELS, DEFAULT_MODEL], ids=lambda path: path.stem)
def test_the_sha256_is_found_by_the_pages_bytes(model: Path, contract: Page) -> None:
    pattern = re.search(
        r"hexadecimal: `([0-9a-f ]+)`, the key, `([0-9a-f ]+)`, the digits", contract.prose
    )
    assert pattern
    start, between = map(bytes.fromhex, pattern.groups())
    data = model.read_bytes()
    entry = start + b"nin_edge.sha256" + between
    assert data.count(entry) == 1
    place = data.index(entry) + len(entry)
    digits = data[place : place + 64].decode()
    assert data[place + 64 : place + 65] == b'"'
    zeroed = data[:place] + b"0" * 64 + data[place + 64 :]
    assert hashlib.sha256(zeroed).hexdigest() == digits
    if model.stem == "format-1.fp32":
        assert f"`{digits}`" in contract.prose


def test_numbers_of_the_contract_are_the_codes(contract: Page) -> None:
    page = contract.prose
    tolerances = dict(re.findall(r"^\| `(\w+)` \| ([\d.e-]+) \|$", page, re.MULTILINE))
    assert {name: float(value) for name, value in tolerances.items()} == TOLERANCES
    assert f"format version {FORMAT_VERSION}" in page
    joined = " ".join(page.split())
    assert f"opset {OPSET}, `ir_version` {IR_VERSION}" in joined
    accepted = re.search(r"([\d.e-]+) in fp32, ([\d.e-]+) in fp16", joined)
    assert accepted
    expected = [EXPORT_TOLERANCES["fp32"], EXPORT_TOLERANCES["fp16"]]
    assert [float(value) for value in accepted.groups()] == expected

"""The oldest ONNX Runtime that the files are for: they load there and give the same answers."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge.weights import DEFAULT_WEIGHTS
from nin_edge_export import PRECISIONS, export_models
from nin_edge_runtime import Classifier
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.verify import TOLERANCES

ROOT = Path(__file__).parent.parent.parent

OLDEST = {"onnxruntime": "1.15.0", "numpy": "1.24.2", "pillow": "10.1.0"}
"""The oldest releases for Python 3.11 that load the files; with Python 3.10, 1.14.1 does as well,
and 1.13.1 does not (opset 18)."""

SAMPLES = 20  # synthetic images, beside each file's own golden samples

REPLAY = """
import json, sys
from importlib.metadata import version
from pathlib import Path
from nin_edge_runtime import Classifier
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.verify import replay
found = {}
for path in map(Path, sys.argv[2:]):
    classify = Classifier(path, provider="cpu", threads=1)
    images = [golden_image(seed, 40, 52) for seed in range(int(sys.argv[1]))]
    found[path.name] = {
        "golden": replay(classify).difference,
        "probabilities": [classify(image).probabilities.tolist() for image in images],
    }
names = ("onnxruntime", "numpy", "pillow")
print(json.dumps({"versions": {name: version(name) for name in names}, "files": found}))
"""


@pytest.fixture(scope="module")
def files(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The default and the tiny weights in every precision, from today's toolkit."""
    folder, paths = tmp_path_factory.mktemp("models"), []
    for weights in (DEFAULT_WEIGHTS, tiny_weights):
        for model in export_models(Checkpoint.load(weights)):
            paths.append(folder / f"{weights.stem}.{model.info.precision}.onnx")
            paths[-1].write_bytes(model.data)
    return paths


def test_every_precision_agrees_on_the_oldest_onnx_runtime(
    files: list[Path],
    wheels: dict[str, Path],
    make_environment: Callable[[str], Path],
    pip: Callable[..., None],
) -> None:
    python = make_environment("oldest")
    pins = [f"{name}=={release}" for name, release in OLDEST.items()]
    pip(python, str(wheels["nin-edge-runtime"]), *pins, constrained=False)
    done = subprocess.run(
        [python, "-c", REPLAY, str(SAMPLES), *files],
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["versions"] == OLDEST
    assert len(answer["files"]) == 2 * len(PRECISIONS)
    for path in files:
        classify = Classifier(path, provider="cpu", threads=1)
        tolerance = TOLERANCES[classify.info.precision]
        there = answer["files"][path.name]
        here = [classify(golden_image(seed, 40, 52)).probabilities for seed in range(SAMPLES)]
        assert there["golden"] <= tolerance
        assert np.abs(np.array(there["probabilities"]) - here).max() <= tolerance, path.name


def test_declared_range_starts_no_earlier_than_what_is_tested() -> None:
    project = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text("utf-8"))["project"]
    (declared,) = project["optional-dependencies"]["cpu"]
    found = re.fullmatch(r"onnxruntime>=([\d.]+)", declared)
    assert found

    def numbers(release: str) -> list[int]:
        return [int(part) for part in release.split(".")]

    assert numbers(found[1]) >= numbers(OLDEST["onnxruntime"])[:2]

"""The oldest supported ONNX Runtime loads the files and gives the same probabilities."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge_export import PRECISIONS, export_models
from nin_edge_runtime import Classifier
from nin_edge_runtime.doctor.fixes import ILLEGAL_RELEASE
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.verify import TOLERANCES

from .conftest import Environment, pip

ROOT = Path(__file__).parent.parent.parent

OLDEST = {"onnxruntime": "1.15.0", "numpy": "1.24.2", "pillow": "10.1.0"}
"""The oldest releases for Python 3.11 that load the files. On Python 3.10, 1.14.1 loads them, too;
1.13.1 does not (opset 18)."""

SAMPLES = 20  # synthetic images, beside each file's own golden samples

REPLAY = """
import json, sys
from importlib.metadata import version
from pathlib import Path
from nin_edge_runtime import Classifier
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.verify import replay
answers = {}
for path in map(Path, sys.argv[2:]):
    classify = Classifier(path, provider="cpu", threads=1)
    images = [golden_image(seed, 40, 52) for seed in range(int(sys.argv[1]))]
    answers[path.name] = {
        "golden": replay(classify).difference,
        "probabilities": [classify(image).probabilities.tolist() for image in images],
    }
names = ("onnxruntime", "numpy", "pillow")
print(json.dumps({"versions": {name: version(name) for name in names}, "files": answers}))
"""


@pytest.fixture(scope="module")
def files(
    tiny_weights: Path,
    default_exports: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """The default and the tiny weights in every precision, from today's toolkit."""
    folder, paths = tmp_path_factory.mktemp("models"), list(default_exports.values())
    for model in export_models(Checkpoint.load(tiny_weights)):
        paths.append(folder / f"{tiny_weights.stem}.{model.info.precision}.onnx")
        paths[-1].write_bytes(model.data)
    return paths


def test_every_precision_agrees_on_the_oldest_onnx_runtime(
    files: list[Path],
    wheels: Mapping[str, Path],
    make_environment: Callable[[str], Environment],
) -> None:
    python = make_environment("oldest").python
    pins = [f"{name}=={release}" for name, release in OLDEST.items()]
    # Without dependencies: only ONNX Runtime's tools need them, and they are large.
    pip(python, "--no-deps", str(wheels["nin-edge-runtime"]), *pins)
    done = subprocess.run(
        [python, "-c", REPLAY, str(SAMPLES), *files],
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout)
    assert answered["versions"] == OLDEST
    assert len(answered["files"]) == 2 * len(PRECISIONS)
    for path in files:
        classify = Classifier(path, provider="cpu", threads=1)
        tolerance = TOLERANCES[classify.info.precision]
        there = answered["files"][path.name]
        here = [classify(golden_image(seed, 40, 52)).probabilities for seed in range(SAMPLES)]
        assert there["golden"] <= tolerance
        assert np.abs(np.array(there["probabilities"]) - here).max() <= tolerance, path.name


def test_declared_range_starts_no_earlier_than_what_is_tested() -> None:
    declared = {
        tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"][
            "optional-dependencies"
        ]["cpu"][0]
        for folder in (ROOT, ROOT / "runtime")
    }
    assert len(declared) == 1
    release = re.fullmatch(rf"onnxruntime>=([\d.]+),!={ILLEGAL_RELEASE}", declared.pop())
    assert release

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    assert numbers(release[1]) >= numbers(OLDEST["onnxruntime"])[:2]

"""What all tests share: small committed models, a photo, real data, and what a run makes once.

The runtime's tests also run where only the runtime is installed, so the toolkit is imported inside
the fixtures that need it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

MODELS = Path(__file__).parent / "data"

MakeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_runtest_setup() -> None:
    """Keep what torch's exporter makes anew each time, the same table: a third of an export."""
    exporter = sys.modules.get("torch.onnx._internal.exporter._registration")
    if exporter and not hasattr(exporter.ONNXRegistry.from_torchlib, "cache_info"):
        once = cache(exporter.ONNXRegistry.from_torchlib)
        exporter.ONNXRegistry.from_torchlib = staticmethod(once)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """An RGB model of three classes, 16 x 16, preprocessing in the graph; random weights."""
    return MODELS / "format-1.fp32.onnx"


@pytest.fixture(scope="session")
def tiny_weights() -> Path:
    """The checkpoint that `tiny_model` was exported from."""
    return MODELS / "tiny.safetensors"


@pytest.fixture(scope="session")
def float_layer_model(
    tiny_model: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`tiny_model` in int8, with one convolution in float."""
    from nin_edge.checkpoint import Checkpoint
    from nin_edge_export.graph import build_graph
    from nin_edge_export.int8.activation_ranges import recorded_ranges
    from nin_edge_export.int8.quantize import quantize
    from nin_edge_export.seal import describe, seal
    from nin_edge_runtime import read_model

    checkpoint = Checkpoint.load(tiny_weights)
    graph = build_graph(checkpoint, "full")
    ranges = recorded_ranges(checkpoint, graph, "minmax")
    mixed = quantize(checkpoint, graph, ranges, ["stages.0.3"])
    # The golden samples are those of fp32, within int8's tolerance.
    golden = read_model(tiny_model)[1].golden
    info = describe(checkpoint, precision="int8", embedded="full", golden=golden)
    model = tmp_path_factory.mktemp("mixed") / "mixed.int8.onnx"
    model.write_bytes(seal(mixed, info))
    return model


@pytest.fixture(scope="session")
def photo() -> Path:
    """The demo photo."""
    return Path(__file__).parent.parent / "examples" / "cat.jpg"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, or the test is skipped."""
    named = os.environ.get("NIN_EDGE_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set NIN_EDGE_TEST_DATA to the folder that has it")
    return folder


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Fills a folder once for all processes of the test run, and gives the folder.

    Call it as `make_once(name, fill)`, with `fill(folder)` to write the files. Session fixtures
    alone would make them again in every worker of pytest-xdist.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker's folder lies in that of the run
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, finished = root / name, root / f"{name}.finished"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a failed attempt left
                folder.mkdir()
                fill(folder)
                finished.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def cifar_files(data_dir: Path, make_once: MakeOnce) -> list[Path]:
    """Every tenth test image of CIFAR-10 (JPEG q75), a hundred of each class: `<class>-<n>.jpg`.

    Read from the archive as it streams by: decoding all 60,000 takes half a minute.
    """

    def extract(folder: Path) -> None:
        with tarfile.open(data_dir / "cifar10-jpeg.tar.xz", "r|xz") as tar:
            files = (member for member in tar if member.isfile())
            tests = (member for member in files if member.name.startswith("test/"))
            for index, member in enumerate(tests):
                if index % 10 == 0:
                    file = tar.extractfile(member)
                    assert file is not None
                    (folder / "-".join(member.name.split("/")[1:])).write_bytes(file.read())

    return sorted(make_once("cifar-files", extract).iterdir())


@pytest.fixture(scope="session")
def default_exports(make_once: MakeOnce) -> Mapping[str, Path]:
    """Files of the default weights by precision, as `nin-edge export` writes them; read-only."""
    from nin_edge.checkpoint import Checkpoint
    from nin_edge.weights import DEFAULT_WEIGHTS
    from nin_edge_export import PRECISIONS, export_models

    def export(folder: Path) -> None:
        for model in export_models(Checkpoint.load(DEFAULT_WEIGHTS)):
            (folder / f"{DEFAULT_WEIGHTS.stem}.{model.info.precision}.onnx").write_bytes(model.data)

    folder = make_once("default-exports", export)
    return {name: folder / f"{DEFAULT_WEIGHTS.stem}.{name}.onnx" for name in PRECISIONS}

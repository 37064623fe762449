"""The two wheels as a user gets them: what is in them, and that they work on their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import nin_edge
import nin_edge_runtime
from nin_edge_runtime import DEFAULT_MODEL

from .conftest import Environment

ROOT = Path(__file__).parent.parent.parent
SIZE_LIMIT = 8_000_000
"""Most bytes that the installed runtime may add beyond its dependencies."""


@pytest.fixture(scope="module")
def device(
    wheels: Mapping[str, Path], make_environment: Callable[[str], Environment]
) -> Environment:
    """An environment with the runtime, ONNX Runtime, what they declare, and the test tools."""
    environment = make_environment("device")
    environment.install(wheels["nin-edge-runtime"], extra="cpu")
    environment.link(["pytest", "hypothesis"])
    return environment


def _inside(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheels_hold_what_they_should(wheels: Mapping[str, Path]) -> None:
    runtime, toolkit = _inside(wheels["nin-edge-runtime"]), _inside(wheels["nin-edge"])
    assert {
        "nin_edge_runtime/py.typed",
        "nin_edge_runtime/models/nin-cifar10.int8.onnx",
        "nin_edge_runtime/pyinstaller/hook-nin_edge_runtime.py",
    } <= runtime
    assert {
        "nin_edge/py.typed",
        "nin_edge/cli/run.py",
        "nin_edge/weights/nin-cifar10.safetensors",
        "nin_edge/weights/nin-cifar10-half.safetensors",
        "nin_edge/weights/nin-cifar10-quarter.safetensors",
        "nin_edge_export/py.typed",
        "nin_edge_export/graph.py",
        "nin_edge/javascript/page/index.html",
        "nin_edge/javascript/src/index.js",
    } <= toolkit
    assert not any("javascript" in name for name in runtime)
    for names in (runtime, toolkit):
        assert any(re.fullmatch(r".*\.dist-info/licenses/LICENSE", name) for name in names)
        packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
        assert packages <= {"nin_edge", "nin_edge_export", "nin_edge_runtime"}


def test_both_distributions_have_the_same_version_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert nin_edge.__version__ == nin_edge_runtime.__version__
    assert f"nin-edge-runtime=={nin_edge.__version__}" in project["dependencies"]
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "runtime" / "LICENSE").read_bytes()
    assert f"## [{nin_edge.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def _run(command: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_runtime_alone_passes_its_tests(device: Environment, tmp_path: Path) -> None:
    # Every module is tested here, though not with every damaged file again.
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'run'}"]
    options += ["-m", "not exhaustive"]
    done = _run([device.python, "-P", "-m", "pytest", *options, ROOT / "tests" / "runtime"], ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    code = (
        "from importlib.util import find_spec;"
        "print([name for name in ('torch', 'onnx', 'click', 'nin_edge') if find_spec(name)])"
    )
    assert _run([device.python, "-c", code], tmp_path).stdout.strip() == "[]"


def test_runtime_adds_little_to_a_device(device: Environment) -> None:
    ours = [path for path in device.packages.glob("nin_edge_runtime*/**/*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in ours) <= SIZE_LIMIT


# The last one, since it changes the environment.
def test_toolkit_labels_a_photo_without_torch(
    device: Environment, wheels: Mapping[str, Path], photo: Path, tmp_path: Path
) -> None:
    device.install(wheels["nin-edge"])
    command = device.python.parent / "nin-edge"
    labelled = _run([command, "run", photo], tmp_path)
    assert labelled.stdout.split()[1] == "cat", labelled.stderr
    missing = _run([command, "export"], tmp_path)
    assert missing.returncode == 1
    assert "pip install" in missing.stderr
    # The page is the checkout's, which tests/js has in a browser; ONNX Runtime Web is not packed.
    page = "from pathlib import Path; from nin_edge import web; web._PARTS.clear(); "
    page += f"web.write_page(Path({str(DEFAULT_MODEL)!r}), Path('page'), onnxruntime_web=Path())"
    written = []
    for python in (device.python, Path(sys.executable)):
        (folder := tmp_path / f"site {len(written)}").mkdir()
        done = _run([python, "-c", page], folder)
        assert done.returncode == 0, done.stderr
        files = (path for path in folder.rglob("*") if path.is_file())
        written.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert {Path("page/index.html"), Path("page/model.onnx"), Path("page/sw.js")} <= set(written[0])

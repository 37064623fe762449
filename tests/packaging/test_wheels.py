"""The two wheels as a user gets them: what is in them, and that they work on their own."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import nin_edge
import nin_edge_runtime

ROOT = Path(__file__).parent.parent.parent
SIZE_LIMIT = 8_000_000
"""Most bytes that the installed runtime may add beyond its dependencies."""


@pytest.fixture(scope="module")
def device(
    wheels: dict[str, Path], make_environment: Callable[[str], Path], pip: Callable[..., None]
) -> Path:
    """The Python of an environment with the runtime, ONNX Runtime and nothing of ours besides."""
    python = make_environment("device")
    pip(python, f"{wheels['nin-edge-runtime']}[cpu]")
    return python


def _inside(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheels_hold_what_they_should(wheels: dict[str, Path]) -> None:
    runtime, toolkit = _inside(wheels["nin-edge-runtime"]), _inside(wheels["nin-edge"])
    assert {"nin_edge_runtime/py.typed", "nin_edge_runtime/models/nin-cifar10.int8.onnx"} <= runtime
    assert {
        "nin_edge/py.typed",
        "nin_edge/cli/run.py",
        "nin_edge/weights/nin-cifar10.safetensors",
        "nin_edge/weights/nin-cifar10-half.safetensors",
        "nin_edge/weights/nin-cifar10-quarter.safetensors",
        "nin_edge_export/py.typed",
        "nin_edge_export/graph.py",
    } <= toolkit
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


def test_runtime_alone_passes_its_tests(device: Path, pip: Callable[..., None]) -> None:
    pip(device, "pytest", "hypothesis")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [device.parent / "pytest", "-q", "-p", "no:cacheprovider", "tests/runtime"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    code = (
        "from importlib.util import find_spec;"
        "print([name for name in ('torch', 'onnx', 'click', 'nin_edge') if find_spec(name)])"
    )
    found = subprocess.run(
        [device, "-c", code], cwd=device.parent, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_runtime_adds_little_to_a_device(device: Path) -> None:
    (packages,) = device.parent.parent.glob("lib/python*/site-packages")
    ours = [path for path in packages.glob("nin_edge_runtime*/**/*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in ours) <= SIZE_LIMIT


def test_toolkit_labels_a_photo_without_torch(
    device: Path,
    wheels: dict[str, Path],
    photo: Path,
    tmp_path: Path,
    pip: Callable[..., None],
) -> None:
    pip(device, str(wheels["nin-edge"]))
    done = subprocess.run(
        [device.parent / "nin-edge", "run", photo],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[1] == "cat"
    missing = subprocess.run(
        [device.parent / "nin-edge", "export"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 1
    assert "pip install" in missing.stderr

"""The wheels, and environments of their own to install them into."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

Pip = Callable[..., None]

_NO_INDEX = (
    "Temporary failure in name resolution|Could not find a version"
    "|Failed to establish a new connection|Read timed out"
)


@pytest.fixture(scope="session")
def pip() -> Pip:
    """Installs into another environment, or skips where there is no index to install from."""

    def install(python: Path, *arguments: str, constrained: bool = True) -> None:
        constraints = ["--constraint", str(ROOT / "constraints.txt")] if constrained else []
        command = [str(python), "-m", "pip", "install", "--quiet", *constraints, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if re.search(_NO_INDEX, done.stderr):
            pytest.skip(f"no package index here: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr

    return install


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, by distribution name."""
    out = tmp_path_factory.mktemp("dist")
    for project in (ROOT / "runtime", ROOT):
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", out, project],
            check=True,
            capture_output=True,
        )
    return {path.name.split("-")[0].replace("_", "-"): path for path in out.glob("*.whl")}


@pytest.fixture(scope="session")
def make_environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Makes an empty environment and gives its Python."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        venv.create(folder, with_pip=True)
        return folder / "bin" / "python"

    return make

"""The wheels, and environments of their own to install them into.

An environment gets the project's wheels by pip, and everything they declare from the packages that
are installed here, through links: this needs no index, and no minutes of unpacking and compiling.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterable, Mapping
from email.parser import HeaderParser
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent

# What pip compiles in advance is not run often enough to pay for that.
PIP_OPTIONS = {"PIP_COMPILE": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}

_OURS = ("nin-edge", "nin-edge-runtime")
_NO_INDEX = (
    "Temporary failure in name resolution|Could not find a version"
    "|Failed to establish a new connection|Read timed out"
)

_BUILD = """
import os, sys
from hatchling.build import build_wheel
out, *projects = sys.argv[1:]
for project in projects:
    os.chdir(project)
    build_wheel(out)
"""

MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def wheels(make_once: MakeOnce) -> Mapping[str, Path]:
    """Both wheels, by distribution name."""

    def build(folder: Path) -> None:
        command = [sys.executable, "-c", _BUILD, folder, ROOT / "runtime", ROOT]
        subprocess.run(command, check=True, capture_output=True)

    out = make_once("dist", build)
    return {path.name.split("-")[0].replace("_", "-"): path for path in out.glob("*.whl")}


class Environment:
    """An environment without pip, with links to packages that are installed here."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        # A folder outside the environment: pip would not replace or remove what is in it.
        self._links = folder.with_name(f"{folder.name}-links")
        self._links.mkdir()
        (self.packages / "links.pth").write_text(f"{self._links}\n", "utf-8")

    def install(self, *wheels: Path, extra: str = "") -> None:
        """Install wheels of the project, and link what else they declare to need."""
        declared = [line for wheel in wheels for line in _declared(wheel)]
        wanted = _wanted(declared, extra)
        self.link(requirement for requirement in wanted if requirement.name not in _OURS)
        pip(self.python, "--no-deps", "--no-index", *map(str, wheels))

    def link(self, requirements: Iterable[Requirement | str]) -> None:
        """Make installed packages importable, with all that they need."""
        for requirement in map(_parsed, requirements):
            installed = distribution(requirement.name)
            assert requirement.specifier.contains(installed.version, prereleases=True)
            if self._add(installed):
                needed = _wanted(installed.requires or [], *requirement.extras)
                self.link(needed)

    def _add(self, installed: Distribution) -> bool:
        """Link a package's files; False if they were before."""
        names = {path.parts[0] for path in installed.files or () if path.parts[0] != ".."}
        new = [name for name in names if not (self._links / name).is_symlink()]
        for name in new:
            (self._links / name).symlink_to(str(installed.locate_file(name)))
        return bool(new)


def _parsed(requirement: Requirement | str) -> Requirement:
    return Requirement(requirement) if isinstance(requirement, str) else requirement


def _declared(wheel: Path) -> list[str]:
    """The requirements in a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return metadata.get_all("Requires-Dist") or []


def _wanted(declared: Iterable[str], *extras: str) -> list[Requirement]:
    """The requirements that hold here, without extras and with those named."""
    return [
        requirement
        for requirement in map(Requirement, declared)
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def pip(python: Path, *arguments: str) -> None:
    """Install into another environment, or skip where there is no index to install from."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    done = subprocess.run(
        [*command, *arguments],
        env=os.environ | PIP_OPTIONS,
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search(_NO_INDEX, done.stderr):
        pytest.skip(f"no package index here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """Makes an empty environment."""
    return lambda name: Environment(tmp_path_factory.mktemp(name) / "environment")

"""ONNX Runtime's lines at import; the package here is one that writes as some releases do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WARNING = "2026-10-13 19:56:01.1 [W:onnxruntime:Default, device_discovery.cc:164 Discover] failed"

PACKAGE = f"""
import os, sys
os.write(2, b"\\x1b[0;93m{WARNING}\\x1b[m\\n")
print("from Python", file=sys.stderr)
BODY
"""

SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[1])
CLOSE
from nin_edge.cli._native import hide_import_lines
hide_import_lines()
hide_import_lines()
try:
    import onnxruntime
except ImportError as error:
    print(error)
else:
    print(onnxruntime.__file__)
os.write(2, b"later\\n")
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "onnxruntime"
    folder.mkdir()
    return folder / "__init__.py"


def _import(package: Path, *, body: str = "", close: str = "") -> subprocess.CompletedProcess[str]:
    package.write_text(PACKAGE.replace("BODY", body), "utf-8")
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("CLOSE", close), package.parent.parent],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="those warnings are Linux's")
class TestImport:
    def test_native_lines_are_dropped_and_others_kept(self, package: Path) -> None:
        done = _import(package)
        assert done.stdout.strip() == str(package)
        assert done.stderr == "from Python\nlater\n"

    def test_a_failing_import_fails_as_before(self, package: Path) -> None:
        done = _import(package, body="raise ImportError('broken')")
        assert done.stdout.strip() == "broken"
        assert done.stderr == "from Python\nlater\n"

    def test_a_closed_stderr_is_no_obstacle(self, package: Path) -> None:
        done = _import(package, close="os.close(2); sys.stderr = None")
        assert "Errno 9" not in done.stdout
        assert done.stderr == ""


@pytest.mark.parametrize("verbose", [False, True])
def test_the_command_line_shows_them_only_if_asked(package: Path, verbose: bool) -> None:
    if sys.platform != "linux":
        pytest.skip("those warnings are Linux's")
    package.write_text(PACKAGE.replace("BODY", ""), "utf-8")
    arguments = [*(["--verbose"] if verbose else []), "run", "none.jpg"]
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(package.parent.parent)!r})\n"
        "from nin_edge.cli import main\n"
        f"main({arguments!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (WARNING in done.stderr) is verbose
    assert "from Python" in done.stderr

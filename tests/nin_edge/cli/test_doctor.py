"""`nin-edge doctor`: its lines, its JSON, and what it prints where packages are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from nin_edge.cli import main
from nin_edge_runtime import doctor
from nin_edge_runtime.doctor import Diagnosis, diagnose

WITHOUT_CUDA = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NIN_EDGE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    """The diagnosis of this machine, made once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NIN_EDGE_")]:
            patch.delenv(name)
        return diagnose()


def _run_with(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command where the modules of a folder hide the installed ones."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "nin_edge", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not WITHOUT_CUDA, reason="this ONNX Runtime is built with CUDA")
class TestSoundInstallation:
    @pytest.fixture(autouse=True)
    def made(self, here: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "diagnose", lambda: here)

    def test_it_is_described(self) -> None:
        result = CliRunner().invoke(main, ["doctor"])
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        rows = dict(line.split("  ", 1) for line in result.stdout.splitlines())
        assert rows["numpy"].strip() == np.__version__
        assert rows["ONNX Runtime"].strip() == f"{onnxruntime.__version__} from onnxruntime"
        assert rows["provider cpu"].strip().startswith("works: 8 golden samples within")
        assert rows["provider cuda"].strip().startswith("not in the installed ONNX Runtime")
        assert {"processor", "int8", "threads"} <= rows.keys()
        assert rows["problems"].strip() == "none"

    def test_json_is_one_object_with_all_of_it(self) -> None:
        result = CliRunner().invoke(main, ["doctor", "--json"])
        assert result.exit_code == 0
        found = json.loads(result.stdout)
        assert found["ok"] is True
        assert found["problems"] == []
        assert [state["name"] for state in found["providers"]] == ["cpu", "cuda"]
        assert found["versions"]["ONNX Runtime"] == onnxruntime.__version__


def test_a_problem_is_shown_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIN_EDGE_THREADS", "\x1b[31mmany")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert any(line.endswith(r"NIN_EDGE_THREADS=\x1b[31mmany") for line in lines)
    position = next(index for index, line in enumerate(lines) if line.startswith("problem "))
    assert "expected a whole number" in lines[position]
    assert lines[position + 1].split() == ["fix", "unset", "NIN_EDGE_THREADS"]


def test_without_onnx_runtime_the_rest_is_described(tmp_path: Path) -> None:
    code = "import sys\nprint('a native line', file=sys.stderr)\n"
    code += "raise ModuleNotFoundError('none', name='onnxruntime')"
    (tmp_path / "onnxruntime.py").write_text(code, "utf-8")
    done = _run_with(tmp_path, "doctor", "--json")
    assert done.returncode == 1
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert found["versions"]["numpy"] == np.__version__
    assert not any(state["works"] for state in found["providers"])
    assert "pip install onnxruntime" in found["problems"][0]["fix"]
    verbose = _run_with(tmp_path, "--verbose", "doctor")
    assert "a native line" in verbose.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ModuleNotFoundError('No module', name='numpy')", "(No module)"),
        ("raise ImportError('\\n\\nIMPORTANT: PLEASE READ THIS\\nand that')", "IMPORTANT: PLEASE"),
        ("raise ImportError", "native library"),
    ],
)
def test_without_numpy_it_is_one_line(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "numpy.py").write_text(code, "utf-8")
    done = _run_with(tmp_path, "doctor")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert message in line
    assert "pip install --force-reinstall numpy pillow" in line

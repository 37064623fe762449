"""A disk that is really full, for each engine: a file system of some kilobytes, of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

PATIENCE = 120.0

# In a namespace of its own, where mounting needs no rights of the system's.
SCRIPT = """
mount -t tmpfs -o size=32k none "$1" || exit 99
shift
"$@"
echo "exit code $?"
ls "$OUT"
"""


@pytest.mark.parametrize(
    "engine",
    [
        "local",
        pytest.param(
            "ray",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    not find_spec("ray"), reason="Ray is not installed: pip install 'ray[data]'"
                ),
            ],
        ),
    ],
)
def test_a_full_disk_is_one_line_and_complete_files_stay(
    engine: str, images: Sequence[Path], tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    score = [sys.executable, "-m", "nin_edge", "score", images[0].parent, out]
    options = ["--model", tiny_model, "--rows", 2, "--engine", engine]
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", out]
    try:
        done = subprocess.run(
            [str(part) for part in (*command, *score, *options)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={"OUT": str(out), "PATH": "/usr/bin:/bin"},
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare(1)")
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    code, *names = done.stdout.splitlines()
    assert code == "exit code 1", done
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert error.startswith(f"Error: {out}/")
    assert error.endswith(": No space left on device")
    assert "_manifest.json" in names
    assert 1 < sum(name.endswith(".parquet") for name in names) < 12

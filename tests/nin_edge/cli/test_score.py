"""`nin-edge score`: what it prints, its exit codes, and what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from nin_edge.cli import main, score
from nin_edge.score import ENGINES

WITHOUT = """
import sys

for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
from nin_edge.cli import main

main()
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


def without(names: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where some packages are missing."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT, names, "score", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_folder_is_scored_and_a_second_run_has_nothing_to_do(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    (folder / "notes.txt").write_text("none of the images")
    options = (folder, out, "--model", tiny_model, "--rows", 2, "--top-k", 3)
    result = run(*options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"3 images in 2 files: {out}\n"
    assert "passed over 1 file without an image's suffix" in result.stderr
    table = pq.read_table(out)
    assert table["path"].to_pylist() == ["a.png", "b.jpg", "inside/a.png"]
    assert {len(names) for names in table["top_labels"].to_pylist()} == {3}
    assert run(*options).stdout == f"3 images in 2 files: {out} (2 were there before)\n"


def test_an_unreadable_image_is_a_row_and_exit_code_1(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (folder / "bad.jpg").write_bytes(b"no image")
    result = run(folder, tmp_path / "out", "--model", tiny_model)
    assert result.exit_code == 1, result.output
    assert result.stdout == f"4 images in 1 files: {tmp_path / 'out'}\n"
    assert result.stderr.splitlines()[-1] == "1 of 4 images could not be read: column error"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("missing", "out"), 1, "missing: no such file or folder, expected a folder of images"),
        (("photos", "out", "--model", "missing.onnx"), 1, "missing.onnx: "),
        (("photos", "photos"), 1, "photos: has other content (a.png), expected a new folder"),
        (("photos", "photos/a.png"), 1, "photos/a.png: a file, expected a folder to write to"),
        (("photos", "out", "--engine", "ray", "--provider", "cuda"), 2, "computes on the CPU"),
        (("photos", "out", "--engine", "spark"), 2, "'spark' is not one of"),
        (("photos", "out", "--rows", 0), 2, "--rows"),
        (("photos", "out", "--min-score", "nan"), 2, "--min-score"),
        (("photos", ""), 2, "the name is empty"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_provider_that_is_not_active_is_exit_code_4(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    result = run(folder, tmp_path / "out", "--model", tiny_model, "--provider", "cuda")
    if result.exit_code == 0:
        pytest.skip("CUDA is active here")
    assert result.exit_code == 4, result.output
    assert not (tmp_path / "out").exists()


def test_it_runs_without_torch(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    names = "torch,safetensors,onnx,matplotlib,ray"
    done = without(names, folder, tmp_path / "out", "--model", tiny_model)
    assert done.returncode == 0, done.stderr


def test_missing_packages_are_named_with_their_command(folder: Path, tmp_path: Path) -> None:
    done = without("pyarrow", folder, tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: nin-edge score needs more packages: pip install pyarrow\n"
    done = without("ray", folder, tmp_path / "out", "--engine", "ray")
    assert (done.returncode, done.stdout) == (1, "")
    expected = "--engine ray needs Ray, which is not installed: pip install 'ray[data]' tqdm"
    assert done.stderr == f"Error: {expected}\n"
    assert not (tmp_path / "out").exists()


def test_the_engines_of_the_help_are_the_librarys() -> None:
    assert score._ENGINES == ENGINES

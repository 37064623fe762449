"""The command line on odd machines: consoles of other encodings, folders in use, no home."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nin_edge.cli import main
from nin_edge.cli.train import _sleep_if_busy
from nin_edge.locks import LOCK_NAME, reserved
from nin_edge_export import ExportedModel

TINY = ("--size", "16", "--width", "0.01", "--device", "cpu")


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.parametrize("encoding", ["cp1252", "iso8859-1:strict", "ascii:strict"])
def test_console_of_any_encoding_shows_every_name(
    tmp_path: Path, tiny_model: Path, encoding: str
) -> None:
    model = tmp_path / "猫.onnx"
    model.write_bytes(tiny_model.read_bytes())
    child = subprocess.run(
        [sys.executable, "-m", "nin_edge", "info", str(model)],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding}
        | {"PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    assert child.stderr == b""
    shown = "猫" if encoding == "ascii:strict" else r"\u732b"  # click makes ASCII UTF-8
    assert f"{tmp_path}/{shown}.onnx".encode() in child.stdout
    label = "étoile".encode("utf-8" if encoding == "ascii:strict" else "iso8859-1")
    assert label in child.stdout


def test_second_training_into_a_folder_is_refused(
    shapes_folder: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    with reserved(run, LOCK_NAME, ""):
        for again in ((), ("--resume",)):
            result = invoke("train", shapes_folder, *TINY, "-o", run, *again)
            failed(result, 1, f"{run}: another training is writing to it", "-o")
        assert [file.name for file in run.iterdir()] == [LOCK_NAME]
    assert not run.exists()


def test_second_export_of_a_model_is_refused_and_another_models_is_not(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, failed: Callable[..., None]
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(tiny_weights.read_bytes())
    seen: list[Result] = []
    out = tmp_path / "out"

    def export(*_: object, **__: object) -> list[ExportedModel]:
        if not seen:
            seen.append(invoke("export", tiny_weights, "-o", out))
            seen.append(invoke("export", other, "-o", out))
        raise OSError(errno.EIO, "stop here", "file")

    monkeypatch.setattr("nin_edge_export.export_models", export)
    failed(invoke("export", tiny_weights, "-o", out), 1, "stop here")
    failed(seen[0], 1, f"{out}: another export of tiny is writing to it", "-o")
    failed(seen[1], 1, "stop here")
    assert not out.exists()


@pytest.mark.parametrize(
    ("load", "own", "expected"), [(99.0, None, "passive"), (0.1, None, None), (99.0, "x", "x")]
)
def test_idle_threads_sleep_on_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch, load: float, own: str | None, expected: str | None
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setenv("OMP_WAIT_POLICY", own or "")
    if own is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    _sleep_if_busy()
    assert os.environ.get("OMP_WAIT_POLICY") == expected


@pytest.mark.parametrize("fault", ["no home", "a file in its place", "a full disk"])
def test_cache_that_cannot_be_written_is_one_line(
    fault: str,
    shapes_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failed: Callable[..., None],
) -> None:
    place = tmp_path / "home"
    if fault == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
        place = Path("home")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    if fault == "a file in its place":
        place.write_text("")
    if fault == "a full disk":

        def fail(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("nin_edge.data.cache.os.fsync", fail)
    result = invoke("train", shapes_folder, *TINY, "-o", tmp_path / "run")
    failed(result, 1, str(place), "XDG_CACHE_HOME")
    assert not (tmp_path / "run").exists()


def test_warnings_of_other_libraries_are_for_verbose_alone(
    tmp_path: Path, tiny_model: Path
) -> None:
    home = tmp_path / "home"
    home.touch()  # matplotlib warns twice where it cannot write its settings
    script = (
        "import logging, sys; from nin_edge.cli import main; "
        "main(sys.argv[1:], standalone_mode=False); "
        "import matplotlib; logging.getLogger('nin_edge.data').warning('of ours'); "
        "logging.getLogger('torch').warning('of torch'); logging.getLogger('PIL').error('grave')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG")}
    for verbose in ([], ["--verbose"]):
        child = subprocess.run(
            [sys.executable, "-c", script, *verbose, "info", str(tiny_model)],
            env=environment | {"HOME": str(home)},
            capture_output=True,
            check=True,
            text=True,
        )
        if not verbose:
            assert child.stderr == "WARNING: of ours\nERROR: grave\n"
        else:
            assert "Matplotlib created a temporary" in child.stderr
            assert "of torch" in child.stderr


@pytest.mark.parametrize("name", ["n" * 240, "猫" * 80])
def test_long_names_are_trained_from(name: str, tmp_path: Path, shapes_folder: Path) -> None:
    from nin_edge.data import open_dataset

    (tmp_path / name).symlink_to(shapes_folder)
    assert open_dataset(tmp_path / name, size=16).name in (name, shapes_folder.name)

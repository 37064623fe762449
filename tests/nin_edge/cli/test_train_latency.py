"""`nin-edge train --latency`: from the choice of the width to the export that reports on it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import nin_edge
from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge.training.run_folder import RunFolder
from nin_edge_export import latency
from nin_edge_runtime import NinEdgeError

WIDTHS = (0.05, 0.1)
OPTIONS = ("--size", "16", "--epochs", "1", "--set", "batch_size=16", "--device", "cpu")


@pytest.fixture(autouse=True)
def few_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two widths, timed for a moment; and no pictures."""
    monkeypatch.setattr(latency, "WIDTHS", WIDTHS)
    monkeypatch.setattr(latency, "SECONDS", 0.05)
    monkeypatch.setattr(RunFolder, "draw", lambda *_, **__: None)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--latency", "0"), "latency is 0.0: expected milliseconds above 0, at most 1000"),
        (("--latency", "-1"), "latency is -1.0: expected milliseconds above 0"),
        (("--latency", "nan"), "latency is nan: expected milliseconds above 0"),
        (("--latency", "2000"), "latency is 2000.0: expected milliseconds above 0, at most 1000"),
        (("--latency", "fast"), "'fast' is not a valid float"),
        (("--latency", "1", "--width", "1"), "latency is 1.0: it chooses the width, which is 1.0"),
        (
            ("--latency", "1", "--init", "nin-cifar10"),
            "latency is 1.0: it chooses the width, but the weights of nin-cifar10 have their own",
        ),
        (("--set", "latency=1"), "--set latency=1: latency has an option of its own"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_one_error(
    shapes_folder: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    words: str,
    failed: Callable[..., None],
) -> None:
    failed(invoke("train", shapes_folder, *options, "-o", tmp_path / "run"), 2, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("quick_report")
def test_the_width_is_chosen_and_export_says_what_it_became(
    shapes_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    result = invoke("train", shapes_folder, "--latency", "500", *OPTIONS, "-o", run)
    assert result.exit_code == 0, result.output
    (note,) = (line for line in result.stderr.splitlines() if line.startswith("width "))
    found = re.fullmatch(
        r"width 0\.1: untrained, in int8, on one thread of this machine it takes (\S+) ms "
        r"\(target 500 ms\)",
        note,
    )
    assert found
    assert any("the widest network, of width 0.1" in message for message in caplog.messages)
    stored = json.loads((run / "config.json").read_text())
    assert stored["network"]["width"] == 0.1
    assert stored["latency"]["target_ms"] == 500
    assert f"{stored['latency']['measured_ms']:.3g}" == found[1]
    checkpoint = Checkpoint.load(run / "best.safetensors")
    assert (checkpoint.config.width, checkpoint.latency_target_ms) == (0.1, 500)

    for again in ((), ("--latency", "500")):
        resumed = invoke("train", shapes_folder, "-o", run, "--resume", "--device", "cpu", *again)
        assert resumed.exit_code == 0, resumed.output
        assert json.loads((run / "config.json").read_text()) == stored
    refused = invoke("train", shapes_folder, "-o", run, "--resume", "--latency", "400")
    assert refused.exit_code == 2
    assert "latency is 400.0: the run to resume was started with 500.0" in refused.stderr

    options = ("--no-eval", "--precision", "int8", "--precision", "fp32")
    exported = invoke("export", run, *options, "-o", tmp_path / "files")
    assert exported.exit_code == 0, exported.output
    fp32, int8 = exported.stdout.splitlines()[:2]
    assert re.search(r"bytes, \S+ ms on one thread, within", fp32)
    assert re.search(r"bytes, \S+ ms on one thread \(target 500 ms\), within", int8)
    report = json.loads((tmp_path / "files" / "run.report.json").read_text())
    assert report["latency_target_ms"] == 500
    page = (tmp_path / "files" / "run.report.html").read_text("utf-8")
    assert "The network's width was chosen for 500 ms in int8." in page


def test_a_latency_that_cannot_be_met_is_one_error_and_leaves_nothing(
    shapes_folder: Path, tmp_path: Path
) -> None:
    words = r"latency is 0\.001 ms: the narrowest network, of width 0\.05, takes \S+ ms"
    with pytest.raises(NinEdgeError, match=words):
        nin_edge.train(shapes_folder, tmp_path / "run", size=16, device="cpu", latency=0.001)
    assert not (tmp_path / "run").exists()

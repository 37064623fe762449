"""Signals: what the first one ends, how the process ends, and that a training is saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import _progress, _signals, main
from nin_edge.cli._progress import Reporter, StopOnSignal
from nin_edge.training.run_folder import RunFolder
from nin_edge_runtime.folders import MARKER

PATIENCE = 60.0
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No signal came before the test, and it leaves all handlers as they were."""
    for name, value in (("first", None), ("interrupted", None), ("handled", 0.0)):
        monkeypatch.setattr(_signals._Record, name, value)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:  # the tests may run under nohup, or in the background of a shell
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for_reader(fifo: Path, process: subprocess.Popen[str]) -> int:
    """Open a FIFO for writing, which works from when the process reads from it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize(
    ("number", "code", "images"),
    [(signal.SIGINT, 130, 2), (signal.SIGTERM, -15, 2), (signal.SIGHUP, -1, 1)],
)
def test_first_signal_ends_a_command_that_waits_for_a_read(
    tmp_path: Path, tiny_model: Path, photo: Path, number: signal.Signals, code: int, images: int
) -> None:
    fifo = tmp_path / "blocked"
    os.mkfifo(fifo)
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "nin_edge", "run", *map(str, [fifo, photo][:images])),
            *("--model", str(tiny_model)),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    writer = wait_for_reader(fifo, child)
    child.send_signal(number)
    _, notes = child.communicate(timeout=PATIENCE)
    os.close(writer)
    assert (child.returncode, notes) == (code, "interrupted\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_process_1_of_a_container_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    raised: list[int] = []
    ended: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)  # the kernel ignores it
    monkeypatch.setattr(os, "_exit", ended.append)
    _signals.note(number)
    _signals.finish(1)  # another error came first
    assert not ended
    _signals._end_by(number)
    assert raised == ([] if number == signal.SIGINT else [number])
    assert ended == [128 + number] == [_signals.exit_code()]


def test_second_signal_ends_at_once_but_an_echo_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(_signals, "_end_by", ended.append)
    with pytest.raises(KeyboardInterrupt):
        _signals.interrupt(signal.SIGTERM, None)
    _signals.interrupt(signal.SIGTERM, None)
    assert not ended
    monkeypatch.setattr(_signals, "ECHO_SECONDS", -1.0)
    _signals.interrupt(signal.SIGINT, None)
    assert ended == [signal.SIGINT]


def test_signal_that_native_code_holds_up_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(code: int) -> None:
        raise InterruptedError(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(_signals, "_STUCK_SECONDS", 0.01)
    reader, writer = os.pipe()
    os.write(writer, bytes([signal.SIGTERM]))
    with pytest.raises(InterruptedError, match="143"):
        _signals._watch(reader)
    os.write(writer, bytes([signal.SIGTERM]))
    _signals.note(signal.SIGTERM)  # the handler ran
    os.close(writer)
    _signals._watch(reader)
    os.close(reader)


@pytest.mark.parametrize("number", SIGNALS[1:])
def test_training_is_saved_and_then_ended(
    number: signal.Signals, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(self: Reporter, progress: object) -> None:
        signal.raise_signal(number)
        signal.raise_signal(number)  # `timeout` sends it to the process and to its group

    monkeypatch.setattr(Reporter, "__call__", report)
    monkeypatch.setattr(RunFolder, "draw", lambda *_, **__: None)
    run = tmp_path / "run"
    options = ["--preset", "nin", "--size", "16", "--width", "0.01", "--device", "cpu"]
    result = CliRunner().invoke(main, ["train", str(shapes_folder), *options, "-o", str(run)])
    assert result.exit_code == 128 + number, result.output
    assert "to continue: nin-edge train" in result.stderr
    assert Checkpoint.load(run / "last.safetensors").config.classes == 3
    assert (run / "state.safetensors").is_file()
    assert [path.name for path in run.glob(".*")] == [MARKER]


def test_before_training_the_first_signal_acts_at_once() -> None:
    stop = StopOnSignal(twice=True)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert not stop()
    assert signal.getsignal(signal.SIGTERM) != stop._request


def test_second_request_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_signals, "ECHO_SECONDS", -1.0)
    stop = StopOnSignal(twice=True)
    stop.begin()
    signal.raise_signal(signal.SIGHUP)
    assert stop()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert _signals.exit_code() == 128 + signal.SIGHUP


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)  # by nohup, or by a script's `&`
    assert number not in _signals.ending()
    stop = StopOnSignal(twice=True)
    signal.raise_signal(number)
    assert not stop()
    stop.restore()


def test_closed_terminal_does_not_stop_the_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    from nin_edge.training.progress import Progress

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(_progress.click, "echo", fail)
    Reporter()(Progress(1, 1, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5))

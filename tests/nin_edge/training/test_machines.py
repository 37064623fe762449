"""Processes in network namespaces of their own, a cable each: what faults do to a training.

Skipped, with the reason, where there can be no namespaces.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _fault
from benchmarks._machines import ENVIRONMENT, Machines, refusal

SCRIPT = Path(_fault.__file__)
PATIENCE = 400.0  # seconds to wait for torchrun, on a busy machine
LOST_SECONDS = 5.0
ROUNDING = 2e-4
"""Largest difference of a loss: sums round otherwise, and steps carry that on."""
OPTIONS = (
    *("--preset", "nin-bn", "--size", "16", "--width", "0.02", "--device", "cpu"),
    *("--epochs", "4", "--set", "batch_size=16"),
)

Train = Callable[..., Any]
Outcome = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    if reason := refusal():
        pytest.skip(reason)
    with Machines(4) as machines:
        yield machines


@pytest.fixture
def train(launch_script: Train, shapes_folder: Path, tmp_path: Path, machines: Machines) -> Train:
    """Trains with a fault in the last process; every process is on a machine of its own."""

    def run(
        run: str, fault: str = "none", *options: str, processes: int = 2, seconds: float = 60.0
    ) -> Any:
        plug = machines.plug_command(processes - 1, "")[:-1]
        return launch_script(
            *(SCRIPT, fault, str(seconds), *plug, "--", "train", shapes_folder),
            *(*OPTIONS, "-o", tmp_path / run, *options),
            processes=processes,
            network=machines,
        )

    return run


@pytest.fixture
def whole(train: Train, outcome: Outcome, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The outcome of an undisturbed run."""

    def get(processes: int = 2) -> dict[str, Any]:
        ended = train("whole", processes=processes)
        assert set(ended.codes) == {0}, ended.logs
        return outcome(tmp_path / "whole")

    return get


def one_error(log: str) -> str:
    """The only line of an error, which is all that a process of the last ranks prints."""
    lines = [line for line in log.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, log
    assert "Traceback" not in log
    return lines[0]


@pytest.mark.parametrize("processes", [2, 4])
def test_after_a_killed_process_the_run_resumes_to_the_same_result(
    train: Train,
    whole: Callable[..., dict[str, Any]],
    outcome: Outcome,
    tmp_path: Path,
    processes: int,
) -> None:
    killed = train("run", "killed", processes=processes)
    assert killed.codes == [1] * (processes - 1) + [-9], killed.logs
    for log in killed.logs[:-1]:  # the line has no source file of gloo's, nor its advice
        assert re.fullmatch(
            r"Error: another process of the training ended \([^/]*\)", one_error(log)
        )
    resumed = train("run", "none", "--resume", processes=processes)
    assert set(resumed.codes) == {0}, resumed.logs
    found, expected = outcome(tmp_path / "run"), whole(processes)
    if processes == 2:
        assert found == expected
    else:  # the order in which gradients are added changes, so sums round otherwise
        for row, other in zip(found["metrics"], expected["metrics"], strict=True):
            assert [float(x) for x in row] == pytest.approx([float(x) for x in other], abs=ROUNDING)


@pytest.mark.parametrize("fault", ["slow", "10"])
def test_a_slow_process_or_ten_seconds_without_a_network_change_nothing(
    train: Train,
    whole: Callable[..., dict[str, Any]],
    outcome: Outcome,
    tmp_path: Path,
    fault: str,
) -> None:
    ended = train("run", fault)
    assert ended.codes == [0, 0], ended.logs
    assert outcome(tmp_path / "run") == whole()


def test_without_a_network_every_process_ends_and_the_run_resumes(
    train: Train,
    whole: Callable[..., dict[str, Any]],
    outcome: Outcome,
    tmp_path: Path,
    machines: Machines,
) -> None:
    try:
        lost = train("run", "inf", seconds=LOST_SECONDS)
    finally:
        machines.plug(1)
    assert lost.codes == [1, 1], lost.logs
    expected = f"Error: another process of the training has not answered for {LOST_SECONDS:g} s"
    assert all(one_error(log).startswith(expected) for log in lost.logs)
    resumed = train("run", "none", "--resume")
    assert resumed.codes == [0, 0], resumed.logs
    assert outcome(tmp_path / "run") == whole()


def test_torchrun_restarts_after_a_killed_process_and_the_run_resumes(
    machines: Machines,
    shapes_folder: Path,
    whole: Callable[..., dict[str, Any]],
    outcome: Outcome,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    plug = machines.plug_command(1, "")[:-1]
    command = (str(SCRIPT), "killed", "60", *plug, "--", "train", str(shapes_folder), *OPTIONS)
    options = ("--max-restarts", "1", *command, "-o", str(tmp_path / "run"), "--resume")
    agents = [
        subprocess.Popen(
            machines.torchrun(number, 2, *options),
            env=environment | ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    logs = [agent.communicate(timeout=PATIENCE)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], logs
    assert "no run to resume, a new one starts" in "".join(logs)
    assert "ended" in "".join(logs)
    assert outcome(tmp_path / "run") == whole()

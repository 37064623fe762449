"""Two real processes that train over gloo, as torchrun starts them."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import nin_edge
from nin_edge.checkpoint import Checkpoint
from nin_edge.tensorfile import read_tensors, write_tensors
from nin_edge.training.errors import WorkersError
from nin_edge.training.workers import Workers, joined, launched
from nin_edge_runtime import ProviderError

MAIN = Path(nin_edge.__file__).parent / "__main__.py"
PATIENCE = 120.0  # seconds to wait for processes, on a busy machine
LOSS_TOLERANCE = 2e-4
"""Of an epoch's mean loss: sums over half batches round otherwise, and steps carry that on."""

SCRIPT = """
import atexit
import sys
import time
from datetime import timedelta
from pathlib import Path
import torch
import nin_edge.training.step
import nin_edge.training.workers
from nin_edge.checkpoint import DataSource
from nin_edge.data import open_dataset
from nin_edge.network import NetworkConfig
from nin_edge.training.recipe import Recipe
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.setup import Machine
from nin_edge.training.workers import joined
from nin_edge.training.loop import train
from nin_edge_runtime import NinEdgeError

def gloo_threads():
    count = 0
    for path in Path("/proc/self/task").glob("*/comm"):
        try:
            count += "gloo" in path.read_text()
        except OSError:  # it has ended since it was listed
            pass
    return count

def report_threads():  # after all else
    until = time.monotonic() + 5  # a thread that was joined may be listed a little longer
    while gloo_threads() and time.monotonic() < until:
        time.sleep(0.01)
    print("threads of gloo at the end:", gloo_threads(), file=sys.stderr)

atexit.register(report_threads)
RunFolder.draw = lambda *_, **__: None  # pictures take as long as this training
data, other, run, fault, preset = map(Path, sys.argv[1:])
if fault.name == "late":
    nin_edge.training.workers._TIMEOUT = timedelta(seconds=4.5)
with joined(torch.device("cpu")) as (workers, device):
    with workers.first_on_machine():
        dataset = open_dataset(other if workers.rank == 1 else data, size=16)
    if fault.name == "state" and workers.rank == 1:
        run = run.parent / "older"
    config = NetworkConfig.from_preset(
        preset.name, classes=len(dataset.labels), size=16, width=0.05, dropout=0.0
    )
    if "parts" in fault.name:
        nin_edge.training.step.microbatch_size = lambda config, side: 3
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=0.02, cutout=8)
    steps = 0

    def should_stop():
        global steps
        steps += 1
        if fault.name == "fail" and workers.rank == 1 and steps == 5:
            raise NinEdgeError("the disk of process 1 is on fire")
        if fault.name == "late" and workers.rank == 1 and steps == 5:
            time.sleep(30)
        return fault.name.startswith("stop") and steps == 5

    source = DataSource(f"{workers.rank}'s shapes" if fault.name == "none" else "shapes")
    last = train(dataset, config, recipe, source, run, machine=Machine(workers, device),
                 should_stop=should_stop)
    if workers.rank == 1:
        last.save(run / "rank1.safetensors")
"""


Launch = Callable[..., Any]


@pytest.fixture
def launch(launch_script: Launch, tmp_path: Path) -> Launch:
    """Runs the script above in several processes."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return lambda *arguments, script=path, **options: launch_script(script, *arguments, **options)


def weights(run: Path, name: str) -> Mapping[str, torch.Tensor]:
    return Checkpoint.load(run / f"{name}.safetensors").weights


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_take_the_steps_of_one(
    shapes_folder: Path, tmp_path: Path, launch: Launch
) -> None:
    data = shapes_folder
    two = launch(data, data, tmp_path / "two", "none", "nin")
    assert two.codes == [0, 0], two.logs
    # A thread that lives on may abort the process.
    assert all("threads of gloo at the end: 0" in log for log in two.logs), two.logs
    ranks = [weights(tmp_path / "two", name) for name in ("last", "rank1")]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    one = launch(data, data, tmp_path / "one", "none", "nin", processes=1)
    assert one.codes == [0], one.logs
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=LOSS_TOLERANCE)


def test_two_processes_agree_on_normalised_networks_and_resume_after_a_stop(
    shapes_folder: Path, tmp_path: Path, launch: Launch
) -> None:
    def run(folder: str, fault: str) -> Any:
        return launch(shapes_folder, shapes_folder, tmp_path / folder, fault, "nin-bn")

    assert run("whole", "parts").codes == [0, 0]
    whole, other = (weights(tmp_path / "whole", name) for name in ("last", "rank1"))
    assert any("running_var" in name for name in whole)
    assert all(torch.equal(whole[name], other[name]) for name in whole)
    assert "TrainingStoppedError" in run("halves", "stop-in-parts").logs[0]
    assert run("halves", "parts").codes == [0, 0]
    halves = weights(tmp_path / "halves", "last")
    for name, value in whole.items():
        if "running" in name:  # averaged once more by the stop, which rounds
            torch.testing.assert_close(halves[name], value)
        else:
            assert torch.equal(halves[name], value)


def test_two_machines_train_one_network(
    shapes_folder: Path, tmp_path: Path, launch: Launch
) -> None:
    options = ["--preset", "nin", "--size", "16", "--width", "0.05", "--epochs", "2", "-o", "run"]
    arguments = ("train", shapes_folder, *options, "--device", "cpu")
    ended = launch(*arguments, script=MAIN, apart=True)
    assert ended.codes == [0, 0], ended.logs
    # Each has decoded the images, but process 0 writes and speaks for both.
    assert [(tmp_path / f"machine{rank}" / "cache").exists() for rank in (0, 1)] == [True, True]
    assert [(tmp_path / f"machine{rank}" / "run").exists() for rank in (0, 1)] == [True, False]
    assert ["next: nin-edge export" in log for log in ended.logs] == [True, False]
    assert "epoch" in ended.logs[0]
    assert "epoch" not in ended.logs[1]
    assert "classes" not in ended.logs[1]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("fail", "the disk of process 1 is on fire"),
        ("late", "another process of the training has not answered for 4.5 seconds"),
        ("data", "process 1 has other data than process 0"),
        ("classes", "process 1 has other labels than process 0"),
    ],
)
def test_the_fault_of_one_process_ends_all_with_its_error(
    shapes_folder: Path,
    tmp_path: Path,
    launch: Launch,
    make_folder: Callable[..., Path],
    fault: str,
    message: str,
) -> None:
    other = shapes_folder
    if fault == "data":
        labels = ("circle", "square", "triangle")
        other = make_folder(tmp_path / "other", dict.fromkeys(labels, 60), seed=7)
    elif fault == "classes":
        other = make_folder(tmp_path / "other", {"circle": 60, "square": 60})
    ended = launch(shapes_folder, other, tmp_path / "run", fault, "nin")
    assert 0 not in ended.codes
    logs = "".join(ended.logs)
    assert re.search(message, logs), logs
    assert "threads of gloo at the end: 0" in logs, logs
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_processes_that_resume_from_different_states_are_refused(
    shapes_folder: Path, tmp_path: Path, launch: Launch
) -> None:
    run, older = tmp_path / "run", tmp_path / "older"
    launch(shapes_folder, shapes_folder, run, "stop", "nin", processes=1)
    shutil.copytree(run, older)
    tensors, header = read_tensors(older / "state.safetensors", "training state")
    header["state"]["step"] -= 1
    write_tensors(older / "state.safetensors", "training state", tensors, header)
    ended = launch(shapes_folder, shapes_folder, run, "state", "nin")
    assert 0 not in ended.codes
    assert "process 1 has other training state than process 0" in "".join(ended.logs)


def test_ctrl_c_saves_and_the_command_it_prints_completes_the_run(
    shapes_folder: Path, tmp_path: Path, launch: Launch, environment: dict[str, str]
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    two = ["--standalone", "--nproc-per-node", "2"]  # on a free port
    options = ["--preset", "nin", "--size", "16", "--width", "0.05", "--set", "batch_size=16"]
    long = [*options, "--epochs", "20", "--device", "cpu", "-o", "run"]
    child = subprocess.Popen(
        [*torchrun, *two, "-m", "nin_edge", "train", str(shapes_folder), *long],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests in the background of a shell would pass on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does; torchrun hands it on
    _, notes = child.communicate(timeout=PATIENCE)
    again = next(line for line in notes.splitlines() if "to continue: " in line)
    command = again.partition("to continue: ")[2].split()
    assert command[:5] == ["torchrun", *two, "-m"]
    assert command[5:7] == ["nin_edge", "train"]
    assert notes.count("to continue: ") == 1
    ended = launch(*command[6:], script=MAIN)
    assert ended.codes == [0, 0], ended.logs
    assert len(losses(tmp_path / "run")) == 20
    assert sum("next: nin-edge export" in log for log in ended.logs) == 1


def test_fewer_gpus_than_processes_are_refused_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with (
        pytest.raises(ProviderError, match=r"4 processes .* has 3 GPUs: .* --nproc-per-node 3"),
        joined(torch.device("cuda")),
    ):
        pass


def test_restarts_with_the_addresses_of_ended_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with (
        pytest.raises(WorkersError, match="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun"),
        joined(torch.device("cpu")),
    ):
        pass


def test_alone_nothing_is_asked_of_others() -> None:
    assert not launched()
    workers = Workers.from_environment()
    value = torch.ones(2)
    assert workers.is_main
    assert workers.mean(value) is value
    assert workers.any(True, False) == (True, False)
    assert workers.broadcast(0.5) == 0.5
    workers.check_same({"data": object})  # not even looked at
    with workers.first_on_machine():
        pass

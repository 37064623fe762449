"""Two real processes, started by torchrun, that train over gloo."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nin_edge.checkpoint import Checkpoint
from nin_edge.tensorfile import read_tensors, write_tensors
from nin_edge.training.workers import Team, joined, launched
from nin_edge_runtime import ProviderError

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
import nin_edge.training.workers
import nin_edge.training.loop
from nin_edge.checkpoint import DataSource
from nin_edge.data import open_dataset
from nin_edge.network import NetworkConfig
from nin_edge.training.recipe import Recipe
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

def tell_threads():  # after all else
    until = time.monotonic() + 5  # a thread that was joined may be listed a little longer
    while gloo_threads() and time.monotonic() < until:
        time.sleep(0.01)
    print("threads of gloo at the end:", gloo_threads(), file=sys.stderr)

atexit.register(tell_threads)
data, other, run, fault, preset = map(Path, sys.argv[1:])
if fault.name == "late":
    nin_edge.training.workers._TIMEOUT = timedelta(seconds=9)
with joined("cpu") as (team, device):
    with team.one_first():
        dataset = open_dataset(other if team.rank == 1 else data, size=32)
    if fault.name == "state" and team.rank == 1:
        run = run.parent / "older"
    classes = len(dataset.labels)
    config = NetworkConfig.from_preset(
        preset.name, classes=classes, size=32, width=0.05, dropout=0.0
    )
    if "parts" in fault.name:
        nin_edge.training.loop.images_at_once = lambda config, side: 3
    recipe = Recipe(epochs=3, batch_size=int(fault.name) if fault.name.isdigit() else 16,
                    learning_rate=0.02, cutout=8)
    steps = 0

    def should_stop():
        global steps
        steps += 1
        if fault.name == "fail" and team.rank == 1 and steps == 5:
            raise NinEdgeError("the disk of process 1 is on fire")
        if fault.name == "late" and team.rank == 1 and steps == 5:
            time.sleep(30)
        return fault.name.startswith("stop") and steps == 5

    source = DataSource(f"{team.rank}'s shapes" if fault.name == "none" else "shapes")
    last = train(dataset, config, recipe, source, run, team=team, device=device,
                 should_stop=should_stop)
    if team.rank == 1:
        last.save(run / "rank1.safetensors")
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TWO = ["--standalone", "--nproc-per-node", "2"]  # on a free port


def torchrun(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run several processes to their end."""
    return subprocess.run(
        [*TORCHRUN, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return Checkpoint.load(run / f"{name}.safetensors").weights


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_take_the_steps_of_one(
    shapes_folder: Path, tmp_path: Path, script: Path
) -> None:
    data = shapes_folder
    done = torchrun(*TWO, script, data, data, tmp_path / "two", "none", "nin", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # One that lives on may abort the process.
    assert done.stderr.count("threads of gloo at the end: 0") == 2, done.stderr
    ranks = [weights(tmp_path / "two", name) for name in ("last", "rank1")]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    one = subprocess.run(
        [sys.executable, script, data, data, tmp_path / "one", "none", "nin"],
        env=environment(),
        check=True,
        timeout=PATIENCE,
    )
    assert one.returncode == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=LOSS_TOLERANCE)


def test_two_processes_agree_on_normalised_networks_and_go_on_after_a_stop(
    shapes_folder: Path, tmp_path: Path, script: Path
) -> None:
    def run(folder: str, fault: str) -> subprocess.CompletedProcess[str]:
        given = (shapes_folder, shapes_folder, tmp_path / folder, fault, "nin-bn")
        return torchrun(*TWO, script, *given, cwd=tmp_path)

    assert run("whole", "parts").returncode == 0
    whole, other = (weights(tmp_path / "whole", name) for name in ("last", "rank1"))
    assert any("running_var" in name for name in whole)
    assert all(torch.equal(whole[name], other[name]) for name in whole)
    assert "TrainingStoppedError" in run("halves", "stop-in-parts").stderr
    assert run("halves", "parts").returncode == 0
    halves = weights(tmp_path / "halves", "last")
    for name, value in whole.items():
        if "running" in name:  # averaged once more by the stop, which rounds
            torch.testing.assert_close(halves[name], value)
        else:
            assert torch.equal(halves[name], value)


def test_two_machines_train_one_network(shapes_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    machines = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    options = ["--preset", "nin", "--size", "16", "--width", "0.05", "--epochs", "2", "-o", "run"]
    children = []
    for machine in ("first", "second"):
        folder = tmp_path / machine
        folder.mkdir()
        command = [*TORCHRUN, *machines, "--rdzv-endpoint", place, "-m", "nin_edge", "train"]
        children.append(
            subprocess.Popen(
                [*command, str(shapes_folder), *options, "--device", "cpu"],
                cwd=folder,
                env=environment() | {"XDG_CACHE_HOME": str(folder / "cache")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [child.communicate(timeout=PATIENCE) for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    # Either machine may be given process 0, which writes and speaks for both.
    leads = [(tmp_path / machine / "run").exists() for machine in ("first", "second")]
    assert sorted(leads) == [False, True]
    assert ["next: nin-edge export" in output for output, _ in told] == leads


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("fail", "the disk of process 1 is on fire"),
        ("late", r"another process of the training has not answered for 0\.0025 hours"),
        ("data", "process 1 has other data than process 0"),
        ("classes", "process 1 has other labels than process 0"),
        (
            "15",
            "a batch of 15 images for 2 processes: expected a multiple, .* such as 14 or 16, "
            "or a number of processes that divides it, such as 1",
        ),
    ],
)
def test_one_processs_fault_ends_the_job_with_its_error(
    shapes_folder: Path,
    tmp_path: Path,
    script: Path,
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
    given = (shapes_folder, other, tmp_path / "run", fault, "nin")
    done = torchrun(*TWO, script, *given, cwd=tmp_path)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    assert "threads of gloo at the end: 0" in done.stderr, done.stderr
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_processes_that_resume_from_different_states_are_refused(
    shapes_folder: Path, tmp_path: Path, script: Path
) -> None:
    run, older = tmp_path / "run", tmp_path / "older"
    one = [sys.executable, script, shapes_folder, shapes_folder, run, "stop", "nin"]
    subprocess.run(one, env=environment(), check=False, capture_output=True, timeout=PATIENCE)
    shutil.copytree(run, older)
    tensors, header = read_tensors(older / "state.safetensors", "training state")
    header["state"]["step"] -= 1
    write_tensors(older / "state.safetensors", "training state", tensors, header)
    given = (shapes_folder, shapes_folder, run, "state", "nin")
    done = torchrun(*TWO, script, *given, cwd=tmp_path)
    assert done.returncode != 0
    assert "process 1 has other training state than process 0" in done.stderr


def test_ctrl_c_saves_and_the_command_it_prints_completes_the_run(
    shapes_folder: Path, tmp_path: Path
) -> None:
    options = ["--preset", "nin", "--size", "16", "--width", "0.05", "--batch-size", "16"]
    long = [*options, "--epochs", "40", "--device", "cpu", "-o", "run"]
    child = subprocess.Popen(
        [*TORCHRUN, *TWO, "-m", "nin_edge", "train", str(shapes_folder), *long],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does; torchrun hands it on
    _, notes = child.communicate(timeout=PATIENCE)
    again = next(line for line in notes.splitlines() if "to go on: " in line)
    command = again.partition("to go on: ")[2].split()
    assert command[0] == "torchrun"
    assert notes.count("to go on: ") == 1
    done = torchrun(*command[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "run")) == 40
    assert done.stdout.count("next: nin-edge export") == 1


def test_fewer_gpus_than_processes_are_refused_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with (
        pytest.raises(ProviderError, match=r"4 processes .* has 3 GPUs: .* --nproc-per-node 3"),
        joined("cuda"),
    ):
        pass


def test_alone_nothing_is_asked_of_others() -> None:
    assert not launched()
    team = Team()
    value = torch.ones(2)
    assert team.leads
    assert team.mean(value) is value
    assert team.agree(True, False) == (True, False)
    assert team.tell(0.5) == 0.5
    team.check_same({"data": object})  # not even looked at
    with team.one_first():
        pass

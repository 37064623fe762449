"""Short trainings of tiny networks, and what two of them have to share."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks._machines import Machines
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset
from nin_edge.network import NetworkConfig, NiN
from nin_edge.training.loop import train
from nin_edge.training.recipe import Recipe
from nin_edge.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take as long as a tiny network's training."""
    monkeypatch.setattr(RunFolder, "draw", lambda *_, **__: None)


@pytest.fixture(scope="session")
def short() -> Recipe:
    """Two epochs of 20 steps: more than one report in each."""
    return Recipe(epochs=2, batch_size=8, learning_rate=0.02, cutout=8)


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., NetworkConfig]:
    """Makes the configuration of a network of 8 channels a layer for the shapes, at 16 x 16."""

    def make(preset: str = "nin-bn", **changes: Any) -> NetworkConfig:
        return NetworkConfig.from_preset(
            preset, **{"classes": 3, "size": 16, "width": 0.01, **changes}
        )

    return make


@pytest.fixture(scope="session")
def train_tiny(
    shapes: Dataset, short: Recipe, tiny_network: Callable[..., NetworkConfig]
) -> Callable[..., Checkpoint]:
    """Trains a tiny network on the shapes by the short recipe, or as the keywords say."""

    def train_it(run: Path, preset: str = "nin-bn", **options: Any) -> Checkpoint:
        return train(
            options.pop("dataset", shapes),
            options.pop("network", None) or tiny_network(preset),
            options.pop("recipe", short),
            options.pop("source", DataSource("shapes", "CC0")),
            run,
            **options,
        )

    return train_it


class StopAfter:
    """A `should_stop` that says so after some steps, or raises, as a power cut would."""

    def __init__(self, steps: int, error: type[Exception] | None = None) -> None:
        self.left, self.error = steps, error

    def __call__(self) -> bool:
        self.left -= 1
        if self.left == 0 and self.error:
            raise self.error
        return self.left == 0


@pytest.fixture(scope="session")
def stop_after() -> type[StopAfter]:
    return StopAfter


def read_metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def all_of(run: Path) -> dict[str, Any]:
    columns = ("epoch", "loss", "holdout_top1", "holdout_loss")
    parts: dict[str, Any] = {
        "metrics": [[row[column] for column in columns] for row in read_metrics(run)]
    }
    for name in ("best", "last"):
        checkpoint = Checkpoint.load(run / f"{name}.safetensors")
        scores = checkpoint.trained_scores.to_json()
        scores.pop("train_seconds", None)
        parts[name] = (scores, checkpoint.temperature, checkpoint.ranges)
        parts[f"{name} weights"] = {
            key: value.numpy().tobytes() for key, value in checkpoint.weights.items()
        }
    return parts


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], list[dict[str, str]]]:
    """Reads the rows of a run's metrics.csv."""
    return read_metrics


@pytest.fixture(scope="session")
def outcome() -> Callable[[Path], dict[str, Any]]:
    """All that two runs have to share, to the bit: weights, losses, scores; times excepted."""
    return all_of


@pytest.fixture(scope="session")
def whole(
    train_tiny: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """The outcome of an uninterrupted short run of a preset, trained once."""
    outcomes: dict[str, dict[str, Any]] = {}

    def get(preset: str) -> dict[str, Any]:
        if preset not in outcomes:
            run = tmp_path_factory.mktemp(preset)
            train_tiny(run, preset)
            outcomes[preset] = all_of(run)
        return outcomes[preset]

    return get


@pytest.fixture
def images_seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Grows by every batch that a network is trained on, normalised (N, C, S, S)."""
    seen: list[torch.Tensor] = []
    forward = NiN.forward

    def spy(self: NiN, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(images.clone())
        return forward(self, images)

    monkeypatch.setattr(NiN, "forward", spy)
    return seen


@pytest.fixture
def targets_seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Grows by the targets of all images whose loss is computed together."""
    seen: list[list[int]] = []
    forward = torch.nn.CrossEntropyLoss.forward

    def spy(self: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets.tolist())
        return forward(self, logits, targets)

    monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", spy)
    return seen


# --- several processes ----------------------------------------------------------------------------

# Importing torch takes most of a short training's time: one process does it and forks the others,
# which are then as if started afresh. Like torchrun, it ends all of a machine when one has failed.
LAUNCHER = """
import ctypes
import gc
import json
import os
import runpy
import signal
import sys
import torch._dynamo  # which torch's optimizers import
import torch.distributed.nn
import nin_edge.api
import nin_edge.cli.train

def become(process):
    log = os.open(process["log"], os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if process["namespace"]:
        network = os.open("/run/netns/" + process["namespace"], os.O_RDONLY)
        assert ctypes.CDLL(None).setns(network, 0) == 0
    os.environ.update(process["env"])
    os.chdir(process["cwd"])
    sys.argv = process["argv"]

def ended(children, apart):
    codes = {}
    while len(codes) < len(children):
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child] and not apart:
            for other in set(children) - codes.keys():
                os.kill(other, signal.SIGTERM)
    return [codes[child] for child in children]

gc.freeze()  # or every fork would visit, and so copy, all of torch's objects when it ends
script = None
for line in sys.stdin:
    children, processes = [], json.loads(line)
    for process in processes:
        child = os.fork()
        if not child:
            become(process)
            script = process["script"]
            break
        children.append(child)
    if script:
        break
    print(json.dumps(ended(children, processes[0]["namespace"])), flush=True)
if script:
    runpy.run_path(script, run_name="__main__")
"""


def plain_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Ended:
    """How processes ended."""

    codes: list[int]
    """Exit code of each."""
    logs: list[str]
    """What each printed."""


Launch = Callable[..., Ended]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of a process with one thread that finds the same packages."""
    return plain_environment()


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    path = tmp_path_factory.mktemp("launcher") / "launcher.py"
    path.write_text(LAUNCHER)
    with subprocess.Popen(
        [sys.executable, path],
        env=plain_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def launch_script(launcher: subprocess.Popen[str], tmp_path: Path, shared_cache: Path) -> Launch:
    """Runs a script in several processes, with the environment that torchrun gives them.

    They share a folder and a cache, or have their own (`apart`), or a network (`Machines`).
    """

    def run(
        script: Path,
        *arguments: str | Path,
        processes: int = 2,
        apart: bool = False,
        network: Machines | None = None,
    ) -> Ended:
        orders = []
        port = free_port()
        for rank in range(processes):
            folder = tmp_path / f"machine{rank}" if apart else tmp_path
            folder.mkdir(exist_ok=True)
            local = {"RANK": "0", "WORLD_SIZE": "1"} if apart or network else {}
            ranks = {"RANK": str(rank), "WORLD_SIZE": str(processes)}
            env = {f"LOCAL_{name}": value for name, value in (ranks | local).items()} | ranks
            env |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost"}
            env |= {"MASTER_PORT": str(port)}
            if network:
                env |= {"MASTER_ADDR": network.addresses[0], "GLOO_SOCKET_IFNAME": "eth0"}
            cache = folder / "cache" if apart else shared_cache
            orders.append(
                {
                    "script": str(script),
                    "namespace": network.names[rank] if network else "",
                    "argv": [str(script), *map(str, arguments)],
                    "cwd": str(folder),
                    "log": str(folder / f"log{rank}-{port}-{time.monotonic_ns()}"),
                    "env": {"XDG_CACHE_HOME": str(cache), **(env if processes > 1 else {})},
                }
            )
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(json.dumps(orders) + "\n")
        launcher.stdin.flush()
        codes = json.loads(launcher.stdout.readline())
        return Ended(codes, [Path(order["log"]).read_text() for order in orders])

    return run


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
    return port

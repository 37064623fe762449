from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nin_edge.checkpoint import DataSource
from nin_edge.data import Location
from nin_edge.metrics import Epoch
from nin_edge.network import NetworkConfig
from nin_edge.tensorfile import write_tensors
from nin_edge.training.errors import TrainingError
from nin_edge.training.recipe import Recipe
from nin_edge.training.run_config import Latency, RunConfig, WeightsUsed
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.state import TrainingState
from nin_edge_runtime import ModelFileError, NinEdgeError
from nin_edge_runtime.preprocessing import Preprocessing

CONFIG = RunConfig(
    network=NetworkConfig.from_preset("nin-imagenet", classes=3, channels=1, size=48),
    recipe=Recipe(learning_rate=0.1, balanced=True),
    preprocessing=Preprocessing(48, 1, (0.4321,), (0.25,)),
    labels=("a", "b", "犬"),
    data=DataSource("photos", "CC0", "ab" * 32),
    location=Location(Path("/data/photos.tar"), "photos", None),
    init=WeightsUsed("nin-cifar10", "cd" * 32),
    teachers=(WeightsUsed("big.safetensors", "ef" * 32),),
    latency=Latency(1.0, 0.97),
)


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, location=None, init=None, teachers=(), latency=None)],
    ids=["everything", "the needed"],
)
def test_a_configuration_comes_back(tmp_path: Path, config: RunConfig) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    folder.write_config(config)
    assert RunFolder.open(folder.path).read_config() == config


def test_the_digest_is_of_what_decides_the_result() -> None:
    assert replace(CONFIG, location=None, latency=None).digest() == CONFIG.digest()
    assert replace(CONFIG, recipe=Recipe()).digest() != CONFIG.digest()
    assert replace(CONFIG, labels=("b", "a", "犬")).digest() != CONFIG.digest()


def test_weights_may_be_moved_and_are_compared_by_content() -> None:
    moved = replace(CONFIG, init=WeightsUsed("moved", "cd" * 32), location=None)
    CONFIG.check_resumes(moved, Path("config.json"))
    CONFIG.check_resumes(replace(CONFIG, init=None), Path("config.json"))
    with pytest.raises(TrainingError, match=r"^config\.json: was trained with different init"):
        CONFIG.check_resumes(
            replace(CONFIG, init=WeightsUsed("nin-cifar10", "0" * 64)), Path("config.json")
        )


def test_a_state_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    state = TrainingState(3, 0.1, 2.5, {"scale": 8.0}, [Epoch(1, 0.5, 0.25, 0.125, 10.0, 2.0)])
    folder.write_state(CONFIG, state, {})
    assert folder.read_state(CONFIG) == (state, {})


STATE = TrainingState(3, 0.1, 2.5, {}, [Epoch(1, 0.5, 0.25, 0.125, 10.0, 2.0)]).to_json()


@pytest.mark.parametrize(
    "changes",
    [
        *({"step": step} for step in (-5, 1.5, "3", None, True)),
        *({"seconds": seconds} for seconds in ("1", [1.0])),
        *(
            {"history": history}
            for history in (5, [3], [{}], [{**STATE["history"][0], "loss": "a"}])
        ),
        *({"scaler": scaler} for scaler in (None, [], {"scale": "high"})),
    ],
    ids=str,
)
def test_a_state_with_odd_values_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = RunFolder(tmp_path)
    header = {"config_sha256": CONFIG.digest(), "state": {**STATE, **changes}}
    write_tensors(folder.state, "training state", {}, header)
    with pytest.raises(ModelFileError, match=r"state\.safetensors: a damaged training state"):
        folder.read_state(CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": "ab"},
        {"labels": [1, 2, 3]},
        {"location": "here"},
        {"location": {"path": 3, "name": "a", "official": None}},
        {"init": ["nin"]},
        {"teachers": {"weights": "a"}},
        {"data": {"name": None}},
        {"network": []},
        {"recipe": {"epochs": 1.5}},
        {"recipe": {"epochs": "3"}},
        {"recipe": {"flip": "yes"}},
        {"recipe": {"momentum": float("nan")}},
    ],
    ids=str,
)
def test_a_configuration_with_odd_values_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(CONFIG)
    stored = json.loads(folder.config.read_text()) | changes
    folder.config.write_text(json.dumps(stored))
    with pytest.raises(ModelFileError, match=r"config\.json: not a run's configuration") as error:
        folder.read_config()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("present", ["nothing", "a folder", "a file"])
def test_what_is_not_a_run_is_refused_in_one_line(tmp_path: Path, present: str) -> None:
    path = tmp_path / "run"
    if present == "a folder":
        path.mkdir()
    elif present == "a file":
        path.write_text("mine")
    with pytest.raises(ModelFileError, match=r"run: not a run's folder, .* with config\.json"):
        RunFolder.open(path)


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path / "missing").check_unused()
    (tmp_path / ".nin-edge-abc.part").touch()  # what a killed process left
    RunFolder(tmp_path).check_unused()
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(NinEdgeError, match=r"already used; .* --resume, or .* -o"):
        RunFolder(tmp_path).check_unused()


def test_the_table_has_a_row_an_epoch(tmp_path: Path) -> None:
    history = [Epoch(1, 0.5, 0.25, 0.125, 10.0, 2.0), Epoch(2, 0.25, 0.5, 0.1, 11.0, 4.0)]
    RunFolder(tmp_path).write_metrics(history)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,loss,holdout_top1,holdout_loss,images_per_second,seconds",
        "1,0.5,0.25,0.125,10.0,2.0",
        "2,0.25,0.5,0.1,11.0,4.0",
    ]


def test_a_run_that_has_lost_its_state_is_not_started_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.check_resumable()  # stopped before its first state
    folder.write_state(CONFIG, TrainingState(), {})
    assert not folder.metrics.exists()
    history = [Epoch(1, 0.5, 0.25, 0.125, 10.0, 2.0)]
    folder.write_state(CONFIG, TrainingState(history=history), {})
    assert folder.metrics.exists()
    folder.check_resumable()
    folder.state.unlink()
    with pytest.raises(TrainingError, match=r"resumed, its state\.safetensors is missing"):
        folder.check_resumable()


def test_config_json_is_plain_json(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config(CONFIG)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["format_version"] == 1
    assert stored["location"] == {"path": "/data/photos.tar", "name": "photos", "official": None}
    assert stored["recipe"]["learning_rate"] == 0.1
    assert stored["init"] == {"weights": "nin-cifar10", "sha256": "cd" * 32}

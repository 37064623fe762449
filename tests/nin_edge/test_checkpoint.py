from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nin_edge import tensorfile
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.metrics import Threshold
from nin_edge.network import PRESETS, NetworkConfig, NiN
from nin_edge.quantised_points import ActivationRange
from nin_edge.tensorfile import FORMAT_VERSION
from nin_edge.trained_scores import SplitScores, TrainedScores
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.preprocessing import Preprocessing

Tensors = dict[str, Tensor]
Header = dict[str, Any]
Change = Callable[[Tensors, Header], None]
Alter = Callable[[Change], Path]

SCORES = TrainedScores(
    epoch=3,
    holdout_loss=0.25,
    train_images=100,
    train_seconds=12.5,
    epochs=4,
    holdout=SplitScores(top1=0.75, images=20, ece=0.125, ece_uncalibrated=0.5),
    test=SplitScores(top1=0.5, images=10, ece=0.25, ece_uncalibrated=0.375),
    thresholds=(Threshold(0.5, 0.875, 0.75), Threshold(0.99, 0.0, None)),
)


@pytest.fixture
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return Checkpoint.load(tiny_weights)


def test_loading_does_not_wait_for_torchs_compiler(tiny_weights: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nin_edge.checkpoint import Checkpoint; "
        "Checkpoint.load(Path(sys.argv[1])); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tiny_weights], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.fixture
def alter(tiny_weights: Path, tmp_path: Path) -> Alter:
    """A copy of the tiny checkpoint whose tensors and header (as stored text) were changed."""

    def write(change: Change) -> Path:
        with safetensors.safe_open(tiny_weights, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change(tensors, header)
        del header["nin_edge.sha256"]
        header["nin_edge.sha256"] = tensorfile.tensors_digest(
            tensors, header
        )  # as if it was written so
        safetensors.torch.save_file(tensors, tmp_path / "altered.safetensors", header)
        return tmp_path / "altered.safetensors"

    return write


def refused(path: Path, words: str) -> None:
    """Loading fails with a message that starts with the file and says what is wrong."""
    with pytest.raises(ModelFileError, match=words) as caught:
        Checkpoint.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def edit(key: str, **changes: Any) -> Change:
    """A change of entries inside one JSON value of the header."""

    def change(_: Tensors, header: Header) -> None:
        header[key] = json.dumps({**json.loads(header[key]), **changes})

    return change


def put(**texts: str) -> Change:
    """A change of whole values of the header."""
    return lambda _, header: header.update(texts)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = NetworkConfig.from_preset("nin-bn", classes=2, channels=1, size=17, width=0.01)
    saved = Checkpoint(
        config=config,
        weights=NiN(config).state_dict(),
        labels=("naïve\n", "犬"),
        preprocessing=Preprocessing(17, 1, (0.25,), (0.125,)),
        data=DataSource("photos", "CC0", "ab" * 32),
        ranges={"input": ActivationRange(-1.5, 2.5, -1.25, 2.25)},
        temperature=1.25,
        latency_target_ms=0.5,
        trained_scores=SCORES,
    )
    saved.save(tmp_path / "a.safetensors")
    loaded = Checkpoint.load(tmp_path / "a.safetensors")
    for field in fields(Checkpoint):
        if field.name != "weights":
            assert getattr(loaded, field.name) == getattr(saved, field.name), field.name
    assert loaded.weights.keys() == saved.weights.keys()
    for name, weight in saved.weights.items():
        assert torch.equal(loaded.weights[name], weight), name
        assert loaded.weights[name].dtype == weight.dtype, name


def test_only_the_needed_is_mandatory(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    replace(checkpoint, ranges={}, temperature=None).save(path)
    loaded = Checkpoint.load(path)
    assert (loaded.ranges, loaded.temperature) == ({}, None)
    assert loaded.trained_scores == TrainedScores()


@pytest.mark.parametrize(
    "scores",
    [
        SCORES,
        TrainedScores(),
        TrainedScores(epoch=1, holdout_loss=0.5, holdout=SplitScores(top1=1.0)),
        replace(SCORES, test=None),
    ],
)
def test_scores_come_back_from_json(scores: TrainedScores) -> None:
    stored = json.loads(json.dumps(scores.to_json()))
    assert None not in stored.values()
    assert TrainedScores.from_json(stored) == scores
    assert TrainedScores.from_json({**stored, "mood": "good"}) == scores


def test_scores_are_stored_by_the_names_that_released_weights_have() -> None:
    assert list(SCORES.to_json()) == [
        *("epoch", "holdout_top1", "holdout_loss", "train_images", "train_seconds", "epochs"),
        *("holdout_images", "holdout_ece", "holdout_ece_uncalibrated"),
        *("test_images", "test_top1", "test_ece", "test_ece_uncalibrated"),
        *("holdout_coverage_at_0.5", "holdout_top1_at_0.5", "holdout_coverage_at_0.99"),
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_network_computes_what_the_saved_one_did(preset: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NiN(NetworkConfig.from_preset(preset, classes=2, size=16, width=0.01))
    with torch.no_grad():
        network(torch.randn(8, 3, 16, 16))  # moves the running statistics
    Checkpoint(
        config=network.config,
        weights=network.state_dict(),
        labels=("a", "b"),
        preprocessing=Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3),
        data=DataSource("noise"),
    ).save(tmp_path / "a.safetensors")
    loaded = Checkpoint.load(tmp_path / "a.safetensors").network()
    assert not loaded.training
    images = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = network.eval().to(memory_format=torch.channels_last)(images)
        assert torch.equal(loaded(images), expected)


def test_the_file_is_a_json_header_and_raw_numbers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path)
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    metadata = header.pop("__metadata__")
    assert all(entry.keys() == {"dtype", "shape", "data_offsets"} for entry in header.values())
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data) - end
    assert metadata["nin_edge.format_version"] == str(FORMAT_VERSION)
    assert json.loads(metadata["labels"]) == list(checkpoint.labels)
    assert not zipfile.is_zipfile(path)  # as torch.save's pickles are


def drop(tensors: Tensors, _: Header) -> None:
    del tensors["stages.0.0.weight"]


def add(tensors: Tensors, _: Header) -> None:
    tensors["stages.9.weight"] = torch.zeros(3)


def reshape(tensors: Tensors, _: Header) -> None:
    tensors["stages.0.0.weight"] = torch.zeros(8, 3, 3, 3)


def shorten_range(tensors: Tensors, _: Header) -> None:
    tensors["ranges/input"] = torch.zeros(3)


def falling_range(tensors: Tensors, _: Header) -> None:
    tensors["ranges/input"] = torch.tensor([1.0, -1.0, 0.0, 0.0])


def range_with_nan(tensors: Tensors, _: Header) -> None:
    tensors["ranges/input"] = torch.tensor([0.0, 1.0, math.nan, 1.0])


def not_finite(tensors: Tensors, _: Header) -> None:
    tensors["stages.0.0.weight"] = torch.full_like(tensors["stages.0.0.weight"], math.inf)


def negative(name: str) -> Change:
    def change(tensors: Tensors, _: Header) -> None:
        tensors[f"stages.0.1.{name}"] -= 1000

    return change


def of_integers(tensors: Tensors, _: Header) -> None:
    tensors["stages.0.0.weight"] = tensors["stages.0.0.weight"].long()


def forget_labels(_: Tensors, header: Header) -> None:
    del header["labels"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            put(**{"nin_edge.format_version": "2"}),
            f"format 2, .* reads up to {FORMAT_VERSION}: update",
        ),
        (put(**{"nin_edge.format_version": "1.5"}), "version '1.5', expected an integer"),
        (put(**{"nin_edge.format_version": ""}), "version '', expected an integer"),
        (
            put(**{"nin_edge.kind": "training state"}),
            "a nin-edge training state, expected a checkpoint",
        ),
        (put(labels='["circle", "square'), "not a readable checkpoint"),
        (put(network="null"), "damaged"),
        (put(network="[]"), "damaged"),
        (edit("network", size=8), "damaged checkpoint: size is 8"),
        (edit("network", colour=1), "damaged checkpoint: .*colour"),
        (edit("network", width=0.5), "tensor .* has shape .* the header has"),
        (edit("network", size=32), r"\(32, 3\) in the network, \(16, 3\) in its preprocessing"),
        (edit("preprocessing", std=[0, 0, 0]), "damaged checkpoint: .*std"),
        (forget_labels, "the header lacks 'labels'"),
        (put(labels='["circle", "square"]'), "2 different labels for 3 classes"),
        (put(labels='["circle", "square", "circle"]'), "2 different labels for 3 classes"),
        (put(labels='"abc"'), "labels"),
        (put(labels=json.dumps(["a", "b", "x" * 1001])), "a label of 1,001 characters"),
        (put(labels="[1, 2, 3]"), "labels"),
        (put(metrics="null"), "metrics"),
        (put(metrics='{"test_top1": "high"}'), "test_top1: 'high', expected a number"),
        (put(metrics='{"epoch": true}'), "epoch: True, expected an integer"),
        (edit("network", pools=None), "damaged checkpoint"),
        (edit("network", blocks=[[-8, 8], [8], [8]]), "blocks are"),
        (edit("network", blocks=["abc", "d", "e"]), "blocks are"),
        (edit("network", blocks=[[10**19], [8], [8]]), "blocks are"),
        (edit("network", kernels=[5.0, 5, 3]), "kernels are"),
        (edit("network", kernels=[5, 5, 511]), "kernels are"),
        (edit("network", classes=True), "classes is True"),
        (edit("network", size="16"), "size is '16'"),
        (edit("network", width="1"), "width is '1'"),
        (edit("network", preset=["nin"]), "preset is"),
        (edit("network", batch_norm="yes"), "batch_norm is 'yes'"),
        (edit("network", classes=60_000, size=512), "expected at most"),
        (edit("preprocessing", size=16.0), "size 16.0"),
        (edit("preprocessing", mean="abc"), "damaged"),
        (put(data='{"name": 3, "licence": "", "fingerprint": ""}'), "name: 3, expected a string"),
        (put(data='{"name": "a"}'), "licence is missing"),
        (put(data="[1]"), "data: expected an object"),
        (put(metrics='{"test_top1": -0.5}'), "0 to 1"),
        (put(metrics='{"test_top1": 1e999}'), "1e999"),
        (put(metrics='{"train_images": -3}'), "at least 0"),
        (put(metrics="[" * 5000 + "]" * 5000), "nested"),
        (put(versions="[]"), "versions"),
        (put(versions='{"torch": 2}'), "torch: 2, expected a string"),
        (put(temperature="0"), "temperature 0.0, expected a positive number"),
        (put(temperature="-1.5"), "temperature -1.5, expected a positive number"),
        (put(temperature="Infinity"), "Infinity is not JSON"),
        (put(latency_target_ms='"fast"'), "latency_target_ms: 'fast', expected a number"),
        (put(temperature="true"), "temperature: True, expected a number"),
        (not_finite, "not finite"),
        (negative("running_var"), "running_var' has negative values"),
        (negative("num_batches_tracked"), "num_batches_tracked' has negative values"),
        (of_integers, "of torch.int64 or not finite"),
        (falling_range, "to rise"),
        (range_with_nan, "four finite numbers"),
        (put(temperature='"hot"'), "damaged"),
        (drop, r"tensor 'stages\.0\.0\.weight' has shape none \(no such tensor\)"),
        (add, r"tensor 'stages\.9\.weight' .* has none"),
        (reshape, r"tensor 'stages\.0\.0\.weight' has shape \(8, 3, 3, 3\), .* \(8, 3, 5, 5\)"),
        (shorten_range, "damaged checkpoint: .*four finite numbers"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    alter: Alter,
    change: Change,
    words: str,
) -> None:
    refused(alter(change), words)


def test_an_unknown_key_of_the_header_is_ignored(alter: Alter, checkpoint: Checkpoint) -> None:
    assert Checkpoint.load(alter(put(mood='"good"'))).labels == checkpoint.labels


def test_a_number_that_json_lacks_is_not_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    scores = TrainedScores(holdout_loss=math.nan)
    with pytest.raises(ValueError, match="JSON"):
        replace(checkpoint, trained_scores=scores).save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())

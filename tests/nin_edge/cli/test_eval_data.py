"""`nin-edge eval` on data as people have them: some of the classes, other splits, a table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main

GOLDEN = ("circle", "square", "étoile")  # classes of the tiny model


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def figures(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("kept", [("circle", "étoile"), ("square",)])
def test_data_with_some_of_the_classes_are_scored(
    data: Path, tiny_model: Path, kept: tuple[str, ...]
) -> None:
    whole = figures(tiny_model, data, "--split", "all")
    for label in set(GOLDEN) - set(kept):
        shutil.rmtree(data / label)
    missing = [label for label in GOLDEN if label not in kept]
    result = run(tiny_model, data, "--split", "all", "--json")
    assert result.exit_code == 0, result.output
    assert f"no images of {len(missing)} of the model's 3 classes: {', '.join(missing)}" in (
        result.stderr
    )
    answer = json.loads(result.stdout)
    assert (answer["images"], answer["missing"]) == (10 * len(kept), missing)
    for label, row, full in zip(GOLDEN, answer["confusion"], whole["confusion"], strict=True):
        assert row == (full if label in kept else [0, 0, 0])
    default = run(tiny_model, data)  # with the tables
    assert default.exit_code == 0, default.output
    assert f"{10 * len(kept)} images of data (all)" in default.stdout
    assert "not all classes: every image is scored" in default.stderr


def test_the_order_of_the_models_labels_counts(
    data: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    checkpoint = Checkpoint.load(tiny_weights)
    replace(checkpoint, labels=GOLDEN[::-1]).save(tmp_path / "reversed.safetensors")
    plain = figures(tiny_weights, data)["confusion"]
    swapped = figures(tmp_path / "reversed.safetensors", data)["confusion"]
    assert swapped == plain[::-1]


def test_the_validation_split_is_scored_where_there_is_no_test_split(
    tmp_path: Path, tiny_model: Path, make_folder: Callable[..., Path], failed: Callable[..., None]
) -> None:
    counts = {f"{split}/{label}": n for split, n in (("train", 4), ("val", 2)) for label in GOLDEN}
    folder = make_folder(tmp_path / "data", counts)
    result = run(tiny_model, folder)
    assert "12 training images, 6 validation, 0 test" in result.stderr
    assert "no test split: the validation split is scored" in result.stderr
    assert "6 images of data (validation)" in result.stdout
    answer = figures(tiny_model, folder, "--split", "validation")
    assert answer["images"] == figures(tiny_model, folder, "--split", "holdout")["images"] == 6
    assert figures(tiny_model, folder, "--test-split", "0.25")["split"] == "test"
    failed(run(tiny_model, folder, "--split", "test"), 1, "no images in the split 'test'")


def test_data_without_splits_say_what_is_scored(
    data: Path, tiny_model: Path, failed: Callable[..., None]
) -> None:
    note = "the fifth that training sets aside is scored; --split all"
    assert note in run(tiny_model, data).stderr
    assert note not in run(tiny_model, data, "--split", "test").stderr
    failed(run(tiny_model, data, "--split", "validation"), 1, "data: no validation split")


def test_a_table_gives_the_classes(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = [f"{label}/{index:03}.png,{label}" for label in GOLDEN for index in range(5)]
    table.write_text("\n".join(["image,label", *rows]), "utf-8")
    answer = figures(tiny_model, data, "--labels", table, "--split", "all")
    assert (answer["images"], answer["unreadable"]) == (15, 15)


@pytest.mark.parametrize("model", ["tiny_model", "tiny_weights"])
@pytest.mark.parametrize("difference", ["other", "extra"])
def test_labels_that_the_model_does_not_know_are_named(
    difference: str,
    model: str,
    data: Path,
    request: pytest.FixtureRequest,
    failed: Callable[..., None],
) -> None:
    path = request.getfixturevalue(model)
    if difference == "other":
        (data / "étoile").rename(data / "star")
    else:
        shutil.copytree(data / "étoile", data / "star")
    words = "data: the model does not know the label star, expected some of circle, square, étoile"
    failed(run(path, data), 1, words)

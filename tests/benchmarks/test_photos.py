"""Which photos the comparison of fine-tunings trains on and scores on, and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks._result import RESULTS
from benchmarks.photos import few, main, plot
from nin_edge.data import Dataset


@pytest.fixture
def shapes() -> Dataset:
    """180 photos of three classes: 120 to train on, 15 held out, 45 of the test."""
    order = np.random.default_rng(0).permutation(180)
    return Dataset(
        name="shapes",
        labels=("circle", "square", "star"),
        images=np.zeros((180, 16, 16, 3), np.uint8),
        targets=np.arange(180) % 3,
        names=tuple(map(str, range(180))),
        train=np.sort(order[:120]),
        holdout=np.sort(order[120:135]),
        test=np.sort(order[135:]),
        unreadable=(),
        fingerprint="",
        splits=("train", "test"),
    )


@pytest.mark.parametrize("left_out", [False, True])
def test_some_photos_of_each_class_are_drawn_and_the_others_can_be_scored(
    shapes: Dataset, left_out: bool
) -> None:
    drawn = few(shapes, 10, 0, left_out=left_out)
    own = np.concatenate([drawn.train, drawn.holdout])
    assert np.bincount(shapes.targets[own]).tolist() == [10] * len(shapes.labels)
    known = np.concatenate([shapes.train, shapes.holdout])
    others = np.setdiff1d(known, own) if left_out else shapes.test
    assert others.size
    np.testing.assert_array_equal(drawn.test, others)
    assert not np.intersect1d(own, drawn.test).size


def test_seeds_draw_other_photos_and_zero_takes_all(shapes: Dataset) -> None:
    first, second = (few(shapes, 10, seed) for seed in range(2))
    assert not np.array_equal(first.train, second.train)
    np.testing.assert_array_equal(first.train, few(shapes, 10, 0).train)
    assert few(shapes, 0, 0) is shapes


def test_a_class_keeps_its_only_photo_to_train_on(shapes: Dataset) -> None:
    drawn = few(shapes, 1, 0)
    assert np.bincount(shapes.targets[drawn.train]).tolist() == [1, 1, 1]
    assert not drawn.holdout.size


def test_the_picture_has_a_part_for_each_data_set_without_teachers(tmp_path: Path) -> None:
    sets = [file for file in RESULTS.glob("photos_*.json") if "taught" not in file.name]
    plot(tmp_path / "photos.png")
    with Image.open(tmp_path / "photos.png") as picture:
        assert picture.size == (432 * len(sets), 360)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("a.tar b.tar --output both.json", "--output takes one data set"),
        ("a.tar --teacher --without-lite0", "--teacher needs EfficientNet-Lite0"),
        ("a.tar --photos 25 --left-out", "--left-out and --set choose defaults"),
        ("a.tar --set scale=1", "--left-out and --set choose defaults"),
        ("a.tar --left-out --output a.json", "--photos without 0"),
        ("a.tar --output a.json --plot a.png", "--plot draws the answers in benchmarks/results"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    given: str, error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["photos", *given.split()])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert error in capsys.readouterr().err

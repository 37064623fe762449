"""Two models on the same images: counts by hand, labels that came or went, and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nin_edge.comparison import (
    Comparison,
    Images,
    Limits,
    compare,
    comparison,
    has_labels,
    labelled,
    to_html,
    unlabelled,
)
from nin_edge.data import DatasetError, open_dataset
from nin_edge_runtime import Classifier, NinEdgeError, read_model
from nin_edge_runtime.golden import golden_image

GREY = Path(__file__).parents[2] / "data" / "grey.fp32.onnx"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured for one round, not for 2 s."""
    monkeypatch.setattr(comparison, "SECONDS", 0.0)


@pytest.fixture(scope="session")
def models(seven_models: tuple[Path, Path], make_once: Callable[..., Path]) -> tuple[Path, Path]:
    """Models of seven classes: the second knows another in place of one, and orders two anew."""

    def fill(folder: Path) -> None:
        from nin_edge_export.seal import seal

        model = onnx.load(seven_models[1])
        labels = list(read_model(seven_models[1])[1].labels)
        labels[0], labels[1] = labels[1], labels[0]
        labels[6] = "class-new"
        bias = next(each for each in model.graph.initializer if each.dims == [7])
        value = 0.9 * numpy_helper.to_array(bias)  # so that some other predictions change, too
        bias.CopyFrom(numpy_helper.from_array(value.astype(np.float32), bias.name))
        del model.metadata_props[:]
        info = replace(read_model(seven_models[1])[1], labels=tuple(labels))
        (folder / "new.onnx").write_bytes(seal(model, info))

    return seven_models[1], make_once("comparison-models", fill) / "new.onnx"


def open_models(paths: Sequence[Path]) -> tuple[Classifier, Classifier]:
    old, new = (Classifier(path, provider="cpu", threads=1) for path in paths)
    return old, new


def of_folder(paths: Sequence[Path], folder: Path, tmp_path: Path) -> tuple[Images, Comparison]:
    old, new = open_models(paths)
    classes = tuple(dict.fromkeys(old.labels + new.labels))
    dataset = open_dataset(folder, size=16, classes=classes, cache=tmp_path)
    images = labelled(dataset, dataset, "all")
    return images, compare(old, new, images)


def test_figures_are_those_of_single_calls(
    models: tuple[Path, Path], patches_folder: Path, tmp_path: Path
) -> None:
    images, found = of_folder(models, patches_folder, tmp_path)
    old, new = open_models(models)
    assert images.classes is not None
    before = [old(image).label for image in images.old]
    after = [new(image).label for image in images.new]
    changed = {
        name: (label, one, other)
        for name, label, one, other in zip(images.names, images.classes, before, after, strict=True)
        if one != other
    }
    assert found.images == len(before) == 140
    assert 0 < len(changed) < 140
    assert {
        change.image: (change.label, change.old, change.new) for change in found.changes
    } == changed
    assert found.agreement == 1 - len(changed) / 140
    correct = np.array([before, after]) == np.array(images.classes)
    assert found.labelled is not None
    assert (found.labelled.old_correct, found.labelled.new_correct) == tuple(correct.sum(axis=1))
    assert found.labelled.corrected == (correct[1] & ~correct[0]).sum()
    assert found.labelled.broken == (correct[0] & ~correct[1]).sum()
    differences = [change.difference for change in found.changes]
    assert differences == sorted(differences, reverse=True)
    low, high = found.labelled.new_interval
    assert low < found.labelled.new_top1 < high


def test_labels_that_came_went_or_moved_are_named(
    models: tuple[Path, Path], patches_folder: Path, tmp_path: Path
) -> None:
    _, found = of_folder(models, patches_folder, tmp_path)
    assert (found.added, found.gone, found.reordered) == (("class-new",), ("class-g",), True)
    # A probability of a label that one model lacks counts as 0 there.
    change = next(change for change in found.changes if change.new == "class-new")
    assert change.difference >= change.new_score
    _, same = of_folder((models[0], models[0]), patches_folder, tmp_path)
    assert (same.added, same.gone, same.reordered, same.changes) == ((), (), False, ())
    assert (same.agreement, same.pictures) == (1.0, ())


def test_limits_are_inclusive(
    models: tuple[Path, Path], patches_folder: Path, tmp_path: Path
) -> None:
    _, found = of_folder(models, patches_folder, tmp_path)
    assert found.labelled is not None
    drop = max(found.labelled.drop_points, 0.0)
    assert found.broken(Limits()) == []
    assert found.broken(Limits(min_agreement=found.agreement, max_drop=drop)) == []
    (agreement,) = found.broken(Limits(min_agreement=found.agreement + 1e-6))
    assert agreement.startswith(f"agreement is {found.agreement:.2%}, expected at least ")
    worse = replace(found, labelled=replace(found.labelled, old_correct=7, new_correct=0))
    assert worse.broken(Limits(max_drop=5.0)) == []
    assert worse.broken(Limits(max_drop=4.9)) == [
        "accuracy drops by 5.00 points, expected at most 4.9"
    ]


def test_models_of_other_sizes_and_channels_see_the_same_photos(
    tiny_model: Path, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(tmp_path / "shapes", {"circle": 3, "square": 3})
    old, new = open_models((tiny_model, GREY))
    assert old.info.preprocessing.channels != new.info.preprocessing.channels
    sets = [
        open_dataset(folder, size=16, channels=channels, classes=old.labels, cache=tmp_path)
        for channels in (3, 1)
    ]
    found = compare(old, new, labelled(sets[0], sets[1], "all"))
    photos = compare(old, new, unlabelled(folder))
    assert photos.labelled is None
    assert [(one.image, one.old, one.new) for one in photos.changes] == [
        (one.image, one.old, one.new) for one in found.changes
    ]
    other = make_folder(tmp_path / "other", {"circle": 2, "square": 4})
    changed = open_dataset(other, size=16, classes=old.labels, cache=tmp_path)
    with pytest.raises(DatasetError, match="shapes: changed while it was read"):
        labelled(sets[0], changed)


def test_photos_that_cannot_be_read_are_left_out_by_name(
    tiny_model: Path, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(tmp_path / "photos", {"2024": 3})
    (folder / "broken.jpg").write_bytes(b"no image")
    old, new = open_models((tiny_model, GREY))
    done: list[tuple[int, int]] = []
    found = compare(old, new, unlabelled(folder), progress=lambda *step: done.append(step))
    assert (found.images, found.data, found.split) == (3, "photos", None)
    assert found.unreadable == (("broken.jpg", "not an image in a format that Pillow reads"),)
    assert done[-1] == (4, 4)
    for image in (folder / "2024").iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(NinEdgeError, match="photos: none of 4 images can be read"):
        compare(old, new, unlabelled(folder))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("square/a.png", True),
        ("train/e\u0301toile/a.png", True),  # as a Mac writes it
        ("2024/square.png", False),
        ("a.png", False),
        ("square/notes.txt", False),
    ],
)
def test_labels_are_seen_in_the_names_of_folders(
    tmp_path: Path, encoded: bytes, name: str, expected: bool
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded if path.suffix == ".png" else b"a note")
    assert has_labels(tmp_path, ("circle", "square", "étoile")) is expected


def test_page_has_all_figures_and_pictures_and_escapes_names(
    models: tuple[Path, Path], patches_folder: Path, tmp_path: Path
) -> None:
    _, found = of_folder(models, patches_folder, tmp_path)
    first = replace(found.changes[0], image="<script>.png", label="<b>\x1b", new="<b>\x1b")
    found = replace(found, changes=(first, *found.changes[1:]))
    page = to_html(found, ["agreement is low"]).decode()
    assert page.count("<li><img src=") == len(found.pictures) == min(len(found.changes), 48)
    assert "<strong>Limit broken:</strong> agreement is low." in page
    assert "Added: class-new. Gone: class-g." in page
    assert found.labelled is not None
    assert f"{found.labelled.new_top1:.2%}<small>" in page
    assert "<script" not in page
    assert "&lt;script&gt;.png" in page
    assert r"<strong>&lt;b&gt;\x1b" in page
    assert "http" not in page.replace("http-equiv", "")


def test_pictures_are_what_the_new_model_sees(tiny_model: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray(golden_image(5, 40, 60)).save(tmp_path / "photos" / "a.png")
    old, new = open_models((tiny_model, GREY))
    found = compare(old, new, unlabelled(tmp_path / "photos"))
    (tmp_path / "picture.png").write_bytes(found.pictures[0])
    seen, _ = new.info.preprocessing.load(tmp_path / "photos" / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "picture.png")), seen[..., 0])

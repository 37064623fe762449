from __future__ import annotations

import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nin_edge
from nin_edge import api
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset, Location
from nin_edge.training.errors import SettingError, TrainingStoppedError
from nin_edge.training.progress import Event, Loading, Opened, Progress, Started
from nin_edge.training.run_folder import RunFolder
from nin_edge_export import ExportOptions
from nin_edge_runtime import Classifier, ModelFileError, NinEdgeError

NAMES = {
    *("train", "export", "evaluate", "open_dataset"),
    *("Checkpoint", "NetworkConfig", "Recipe"),
}
TINY: dict[str, Any] = {"size": 16, "width": 0.01, "batch_size": 16, "device": "cpu"}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "draw", lambda *_, **__: None)


# --- the names ------------------------------------------------------------------------------------


def test_the_package_has_seven_names_and_loads_no_torch() -> None:
    code = (
        "import sys, nin_edge; print(sorted(nin_edge.__all__)); "
        "print({'torch', 'numpy', 'PIL'} & set(sys.modules)); nin_edge.Recipe(epochs=3); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [str(sorted(NAMES)), "set()", "False"]


def test_every_name_is_there_and_no_module_hides_it() -> None:
    assert set(dir(nin_edge)) >= NAMES
    for name in NAMES:
        assert getattr(nin_edge, name).__name__ == name
    assert not NAMES & {module.name for module in pkgutil.iter_modules(nin_edge.__path__)}
    with pytest.raises(AttributeError, match="module 'nin_edge' has no attribute 'teach'"):
        nin_edge.teach  # noqa: B018


# --- training -------------------------------------------------------------------------------------


def test_training_chooses_writes_and_reports(shapes_folder: Path, tmp_path: Path) -> None:
    events = list[Event]()
    numbers = {"epochs": np.int64(1), "size": np.int16(16), "batch_size": np.uint8(16)}
    settings: dict[str, Any] = {**TINY, **numbers, "flip": np.bool_(True)}
    run = nin_edge.train(shapes_folder, tmp_path / "run", on_progress=events.append, **settings)
    assert run.folder == tmp_path / "run"
    assert run.data == Location(shapes_folder, "shapes", None)
    assert run.scores == run.checkpoint.trained_scores
    assert run.scores.test is not None
    assert run.scores.test.images == 45
    kinds = list(dict.fromkeys(map(type, events)))
    assert kinds == [Loading, Opened, Started, Progress]
    (started,) = (event for event in events if isinstance(event, Started))
    assert started.network.classes == 3
    assert (started.recipe.epochs, started.recipe.batch_size) == (1, 16)
    (opened,) = (event for event in events if isinstance(event, Opened))
    assert opened.dataset.labels == run.checkpoint.labels
    assert api.Run.open(tmp_path / "run") == run


def test_a_stopped_training_is_resumed(shapes_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStoppedError):
        nin_edge.train(shapes_folder, tmp_path, epochs=1, should_stop=lambda: True, **TINY)
    with pytest.raises(ModelFileError, match=r"best\.safetensors: no such file"):
        _ = api.Run.open(tmp_path).checkpoint
    moved = shutil.copytree(shapes_folder, tmp_path.parent / "moved")
    # The copy's files are new, but their pixels are the same.
    run = nin_edge.train(moved, tmp_path, resume=True, device="cpu")
    assert run.data == api.Run.open(tmp_path).data == Location(moved, "moved", None)
    assert run.scores.epochs == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shade": "red"}, "unknown setting 'shade': expected one of balanced, "),
        ({"epochs": 0}, "epochs is 0: expected 1 to"),
        ({"epochs": "many"}, "epochs is 'many': expected an integer"),
        ({"compiled": True}, "compiled is for one process on a GPU"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_one_error(
    shapes_folder: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        nin_edge.train(shapes_folder, tmp_path / "run", **{"device": "cpu", **settings})
    assert not (tmp_path / "run").exists()


def test_a_used_folder_and_a_file_are_refused(shapes_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(NinEdgeError, match="already used"):
        nin_edge.train(shapes_folder, tmp_path, **TINY)
    with pytest.raises(NinEdgeError, match="a file, expected a folder"):
        nin_edge.train(shapes_folder, tmp_path / "note.txt", **TINY)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_what_is_not_a_run_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()  # with nothing in it, training would start a new run
    for call in (
        lambda: api.Run.open(tmp_path),
        lambda: nin_edge.export(tmp_path, tmp_path),
        lambda: nin_edge.train(tmp_path, tmp_path, resume=True, device="cpu"),
    ):
        with pytest.raises(ModelFileError, match="not a run's folder"):
            call()


# --- evaluation and export ------------------------------------------------------------------------


def test_a_run_scores_as_it_was_measured(trained_run: Path, shapes_folder: Path) -> None:
    run = api.Run.open(trained_run)
    scores = nin_edge.evaluate(run, shapes_folder, provider="cpu")
    assert run.scores.test is not None
    assert scores.top1 == run.scores.test.top1
    assert nin_edge.evaluate(
        trained_run / "best.safetensors", shapes_folder, split="holdout", provider="cpu"
    ).count == len(nin_edge.open_dataset(shapes_folder, size=16).holdout)


def test_a_run_is_exported_and_measured_on_its_own_data(trained_run: Path, tmp_path: Path) -> None:
    events = list[Loading | Opened]()
    exported = api.Run.open(trained_run).export(
        tmp_path, precisions=("fp32",), on_progress=events.append
    )
    assert exported.files == (tmp_path / "shapes.fp32.onnx",)
    assert all(path.is_file() for path in (*exported.files, exported.report_html))
    assert "fp32 on the test images" in {
        event.task for event in events if isinstance(event, Loading)
    }


def test_a_run_without_held_out_images_is_exported_without_its_data(
    make_folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(tmp_path / "few", {"circle": 2, "square": 2})
    run = nin_edge.train(folder, tmp_path / "run", epochs=1, **TINY)
    assert run.scores.holdout is None
    assert run.scores.test is not None
    (model,) = run.export(tmp_path / "out", precisions="int8").files
    assert "few has no images to hold out" in caplog.text
    assert Classifier(model).info.certificate.images is None


def test_the_settings_of_an_export_are_its_options() -> None:
    names = {field.name for field in fields(ExportOptions)}
    assert api.ExportSettings.__annotations__.keys() == names


@pytest.fixture
def measured_on(monkeypatch: pytest.MonkeyPatch, trained_run: Path) -> Callable[..., Any]:
    """Exports the run, or what is given, and gives the data sets instead of files."""
    seen: list[tuple[Dataset | None, Dataset | None]] = []
    monkeypatch.setattr(
        "nin_edge_export.export_models",
        lambda *_, dataset, calibration, **__: seen.append((dataset, calibration)),
    )
    monkeypatch.setattr("nin_edge_export.write_export", lambda *_, **__: None)

    def measure(model: Any = trained_run, **options: Any) -> Any:
        nin_edge.export(model, **options)
        return [dataset and dataset.name for dataset in seen.pop()]

    return measure


def test_the_data_of_an_export(
    measured_on: Callable[..., Any],
    trained_run: Path,
    shapes_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert measured_on() == ["shapes", None]
    assert measured_on(eval_data=False) == [None, None]
    assert measured_on(trained_run / "best.safetensors") == [None, None]
    other = shutil.copytree(shapes_folder, tmp_path / "other")
    assert measured_on(eval_data=other, calibration=shapes_folder) == ["other", "shapes"]
    assert not caplog.records
    # Its own data, but they are no longer there, or no longer the same.
    run = api.Run.open(trained_run)
    assert measured_on(replace(run, data=Location(tmp_path / "gone", "gone", None))) == [None, None]
    assert "gone" in caplog.messages[-1]
    next(other.rglob("*.png")).unlink()
    assert measured_on(replace(run, data=Location(other, "other", None))) == [None, None]
    assert "other was changed" in caplog.messages[-1]


def test_the_default_weights_are_exported_if_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported = list[Checkpoint]()
    monkeypatch.setattr("nin_edge_export.export_models", lambda one, *_, **__: exported.append(one))
    monkeypatch.setattr("nin_edge_export.write_export", lambda *_, name, **__: name)
    assert nin_edge.export() == "nin-cifar10"  # type: ignore[comparison-overlap]
    assert nin_edge.export("nin-cifar10-quarter") == "nin-cifar10-quarter"  # type: ignore[comparison-overlap]
    assert [one.config.width for one in exported] == [1.0, 0.25]

"""The library in four functions: `import nin_edge`, then `nin_edge.train(...)` and so on.

>>> run = nin_edge.train("photos", init="nin-cifar10-half", epochs=20)
>>> run.scores.test.top1
0.93
>>> run.export("models").files
(PosixPath('models/photos.fp32.onnx'), ...)

`nin-edge train` and `nin-edge export` call these functions. Beside the command line, this is the
only module that imports both training and export.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, cast

import torch

from nin_edge import predict
from nin_edge.arguments import plain, several
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import (
    Dataset,
    DatasetError,
    Location,
    Progress,
    dataset_name,
    locate,
    open_dataset,
)
from nin_edge.export_settings import ExportSettings
from nin_edge.files import require_folder
from nin_edge.kernels import budgeted_threads
from nin_edge.locks import reserved
from nin_edge.metrics import Scores
from nin_edge.predict import open_predictor, torch_device
from nin_edge.trained_scores import TrainedScores
from nin_edge.training import loop
from nin_edge.training.errors import SettingError
from nin_edge.training.memory import keep_memory
from nin_edge.training.progress import Event, Loading, Opened, Started
from nin_edge.training.request import Request
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.settings import Settings, check_settings
from nin_edge.training.setup import Machine
from nin_edge.training.start import Start
from nin_edge.training.workers import joined
from nin_edge.weights import DEFAULT_WEIGHTS, find_weights

if TYPE_CHECKING:
    from nin_edge_export import Exported

__all__ = ["ExportSettings", "Run", "Settings", "evaluate", "export", "open_dataset", "train"]

_logger = logging.getLogger(__name__)

Data = str | os.PathLike[str]
"""A folder or archive of labelled images, or the name of an official data set."""


@dataclass(frozen=True)
class Run:
    """A finished training."""

    folder: Path
    """The run's folder."""
    data: Location | None
    """Where its data set was; None if not known."""

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """Open the folder of a run.

        Raises:
            ModelFileError: it is not a run's folder.
        """
        run = RunFolder.open(folder)
        return cls(run.path, run.read_config().location)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights that the hold-out chose; the last ones if it is small.

        Raises:
            ModelFileError: the run has none yet, or the file is damaged.
        """
        return Checkpoint.load(RunFolder(self.folder).best)

    @property
    def scores(self) -> TrainedScores:
        """What training measured, for example `scores.test.top1`."""
        return self.checkpoint.trained_scores

    def export(
        self,
        output: str | os.PathLike[str] = ".",
        *,
        eval_data: Data | Literal[False] | None = None,
        calibration: Data | None = None,
        on_progress: Callable[[Loading | Opened], None] | None = None,
        **settings: Unpack[ExportSettings],
    ) -> Exported:
        """Export the weights to model files; see `nin_edge.export`."""
        return export(
            self,
            output,
            eval_data=eval_data,
            calibration=calibration,
            on_progress=on_progress,
            **settings,
        )


def train(
    data: Data,
    output: str | os.PathLike[str] | None = None,
    *,
    init: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    width: float | None = None,
    size: int | None = None,
    distill_from: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    device: str = "auto",
    resume: bool = False,
    compiled: bool = False,
    on_progress: Callable[[Event], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Unpack[Settings],
) -> Run:
    """Train a network on labelled images, or fine-tune trained weights with them.

    What is not given is chosen to suit the data. Under `torchrun`, all processes share the work. On
    Linux, the C library keeps freed memory from then on, which makes steps faster.

    Args:
        data: a folder or archive of <class>/*, or of train/<class>/* beside validation/ or test/,
            or an official data set, by path or by name.
        output: the run's folder; `runs/NAME` if None.
        init: a checkpoint, a name such as `nin-cifar10` or `none`; `nin-photo` for photos if None.
        preset: a key of `nin_edge.network.PRESETS`; `nin-bn`, or that of `init`, if None.
        width: multiplier of the channel counts; 1, or that of `init`, if None.
        size: side of the input in pixels, 16 to 512; that of the data, `init` or preset if None.
        distill_from: teachers, whose mean prediction is learnt, too: checkpoints, names, or `.onnx`
            models of any program, each with a JSON beside it (docs/guides/training.md).
        device: `auto`, `cpu` or `cuda`.
        resume: continue the run in the folder with its own settings; a new run if there is none.
        compiled: compile the networks with torch.compile; on a GPU, in one process.
        on_progress: called with the events of `nin_edge.training.progress`.
        should_stop: called after each step; True saves the state and stops.
        settings: rarer settings, see `Settings`.

    Raises:
        SettingError: a setting is unknown, out of its range, or not that of the run to resume.
        DatasetError: the data cannot be read or trained on.
        TrainingError: training diverged, or the run cannot be resumed.
        TrainingStoppedError: `should_stop` returned True.
        NinEdgeError: the folder is in use, weights are not found, and the like.
    """
    settings = cast(Settings, {name: plain(value) for name, value in settings.items()})
    check_settings(settings)
    request = Request(
        init=None if init is None else os.fspath(init),
        preset=preset,
        width=plain(width),
        size=plain(size),
        distill_from=tuple(os.fspath(teacher) for teacher in several(distill_from)),
        settings=settings,
    )
    folder = RunFolder(Path(output) if output else Path("runs") / dataset_name(Path(data)))
    require_folder(folder.path)
    with (
        budgeted_threads(),
        joined(torch.device(torch_device(device, "device"))) as (workers, own_device),
        folder.reserved() if workers.is_main else nullcontext(),
    ):
        if compiled and (own_device.type != "cuda" or workers.size > 1):
            raise SettingError("compiled is for one process on a GPU, device cuda")
        report = on_progress if on_progress and workers.is_main else _ignore
        resume, notes = folder.to_resume(resume, workers)
        start = Start.resumed(request, folder) if resume else Start.new(request)
        if "latency" in settings and not resume:  # packages are missed before data are read
            from nin_edge_export.latency import choose_width

            search = partial(choose_width, progress=lambda *done: report(Loading(*done)))
        with workers.first_on_machine():
            if workers.is_main and not resume:
                folder.check_unused()
            location = _locate(data, start.data_settings(), report)
            start = start.suited_to(location)
            size, channels = start.input_shape(location.native_shape)
            skip = resume or settings.get("skip_unreadable", False)  # fingerprints are compared
            dataset = _open(location, size, channels, report, skip_unreadable=skip)
            dataset = start.with_larger(location, dataset, _loading(report))
        if "latency" in settings and not resume:
            start = start.fit_width(search, dataset, location.native_shape, workers)
        choices = start.choose(dataset, location.native_shape, workers.size)
        report(Started(choices.network, choices.recipe, notes + choices.notes))
        keep_memory()
        loop.train(
            dataset,
            choices.network,
            choices.recipe,
            choices.source,
            folder.path,
            location=location,
            init=start.initial,
            teachers=start.teachers,
            latency=choices.latency,
            machine=Machine(workers, own_device, compiled),
            report=report,
            should_stop=should_stop or (lambda: False),
        )
    return Run(folder.path, location)


def export(
    model: Run | Data = DEFAULT_WEIGHTS,
    output: str | os.PathLike[str] = ".",
    *,
    eval_data: Data | Literal[False] | None = None,
    calibration: Data | None = None,
    on_progress: Callable[[Loading | Opened], None] | None = None,
    **settings: Unpack[ExportSettings],
) -> Exported:
    """Export weights to model files for devices, with a report.

    Every file is compared with PyTorch before any is written.

    Args:
        model: a run, its folder, a checkpoint, or the name of weights that ship.
        output: folder for NAME.fp32.onnx, .fp16.onnx, .int8.onnx, .report.html and .report.json.
        eval_data: data to measure accuracy and top-1 agreement with PyTorch on. None: a run's own
            data, if they are unchanged in their place. False: no data.
        calibration: data to measure int8's ranges on; the ranges that training recorded if None.
        on_progress: called with what is being done.
        settings: see `ExportSettings`.

    Raises:
        GateError: a file differs too much from PyTorch, or `max_drop` cannot be met.
        NinEdgeError: another process exports to the same files.
        DatasetError: data cannot be read, or have other classes than the model.
        ModelFileError: there are no such weights.
        ValueError: a setting is out of its range.
    """
    report = on_progress or _ignore
    run, weights = _weights_of(model)
    checkpoint = Checkpoint.load(weights)
    require_folder(Path(output))
    # After the cheap checks: it brings torch's exporter.
    from nin_edge_export import ExportOptions, export_models, export_name, write_export

    given = cast(ExportSettings, {key: plain(value) for key, value in settings.items()})
    if "precisions" in given:
        given["precisions"] = several(given["precisions"])
    name = export_name(weights)
    lock = f".nin-edge-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:16]}"
    refusal = f"{output}: another export of {name} is writing to it; name another folder with -o"
    options = ExportOptions(**given)
    with reserved(Path(output), f"{lock}.lock", refusal):
        dataset = calibration_dataset = None
        if eval_data:
            dataset = _open_for(checkpoint, eval_data, report)
        elif run and eval_data is None:
            dataset = _own_dataset(run, checkpoint, report)
        if calibration:
            same = eval_data and Path(calibration) == Path(eval_data)
            calibration_dataset = dataset if same else _open_for(checkpoint, calibration, report)
        models = export_models(
            checkpoint,
            options,
            dataset=dataset,
            calibration=calibration_dataset,
            progress=lambda task, done, total: report(Loading(task, done, total)),
        )
        return write_export(models, checkpoint, name=name, output=Path(output), dataset=dataset)


def evaluate(
    model: Run | Data,
    data: Data | Location,
    *,
    split: str | None = None,
    provider: str = "auto",
    on_progress: Callable[[Loading | Opened], None] | None = None,
) -> Scores:
    """Score a model on labelled images.

    Args:
        model: a run, its folder, a checkpoint (.safetensors), an exported model (.onnx), or the
            name of weights that ship.
        data: images of the model's classes, or of some of them.
        split: `test`, `validation`, `holdout`, `train` (without the hold-out) or `all`; the test
            split, else the validation split, else the hold-out, if None; `all` of data without
            splits that lack a class.
        provider: `auto`, `cpu` or `cuda`.
        on_progress: called with what is being done.

    Raises:
        DatasetError: the data cannot be read, have unknown labels, or no images in the split.
        ModelFileError: there is no such model.
        ProviderError: the provider is not active.
    """
    report = on_progress or _ignore
    path = RunFolder(model.folder).best if isinstance(model, Run) else model
    predictor = open_predictor(path, provider)
    steps = predictor.preprocessing
    dataset = _open(data, steps.size, steps.channels, report, predictor.labels)
    return predict.evaluate(predictor, dataset, split, _loading(report, "evaluating images"))


def _ignore(event: Event) -> None:
    """Discard an event."""


def _loading(report: Callable[[Loading], None], task: str = "reading images") -> Progress:
    """Reports the progress of a task."""
    return lambda done, total: report(Loading(task, done, total))


def _locate(data: Data, settings: Settings, report: Callable[[Loading], None]) -> Location:
    """Where the data are, as an absolute path."""
    return locate(
        data,
        official=settings.get("official"),
        labels=settings.get("labels"),
        test_split=settings.get("test_split"),
        zip_encoding=settings.get("zip_encoding"),
        download=settings.get("download", False),
        progress=lambda name, done, total: report(Loading(f"fetching {name}, bytes", done, total)),
    ).absolute()


def _open(
    data: Data | Location,
    size: int,
    channels: int,
    report: Callable[[Loading | Opened], None],
    classes: Sequence[str] | None = None,
    *,
    skip_unreadable: bool = True,
) -> Dataset:
    """Open a data set, for a model of these classes if given, and report it."""
    dataset = open_dataset(
        data if isinstance(data, Location) else locate(data),
        size=size,
        channels=channels,
        classes=classes,
        progress=_loading(report),
        skip_unreadable=skip_unreadable,
    )
    report(Opened(dataset))
    return dataset


def _open_for(
    checkpoint: Checkpoint, data: Data | Location, report: Callable[[Loading | Opened], None]
) -> Dataset:
    """Open a data set as a checkpoint's network takes its images."""
    config = checkpoint.config
    return _open(data, config.size, config.channels, report, checkpoint.labels)


def _weights_of(model: Run | Data) -> tuple[Run | None, Path]:
    """The run that is meant, if it is one, and the file of its weights."""
    if isinstance(model, Run):
        return model, RunFolder(model.folder).best
    weights = find_weights(model)
    if not weights.is_dir():
        return None, weights
    run = Run.open(weights)
    return run, RunFolder(run.folder).best


def _own_dataset(
    run: Run, checkpoint: Checkpoint, report: Callable[[Loading | Opened], None]
) -> Dataset | None:
    """The data that a run was trained on, if they are unchanged in their place."""
    if run.data is None:
        return None
    try:
        dataset = _open_for(checkpoint, run.data, report)
    except (DatasetError, OSError) as error:
        _logger.warning("exported without the run's data: %s", error)
        return None
    changed = dataset.fingerprint != checkpoint.data.fingerprint
    if changed or not len(dataset.holdout):
        fault = "was changed" if changed else "has no images to hold out"
        _logger.warning("exported without the run's data: %s %s", run.data.path, fault)
        return None
    return dataset

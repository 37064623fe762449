"""`nin-edge eval`: how good a model's answers on labelled images are."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nin_edge.cli import PATH, printable, provider_option
from nin_edge.cli._data import (
    dataset_option,
    download_option,
    open_data,
    show_progress,
    torch_device,
)
from nin_edge.weights import find_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nin_edge.data.datasets import Dataset
    from nin_edge.metrics import Scores
    from nin_edge_runtime.image import Preprocessing

_BATCH_PIXELS: Final = 100 * 32 * 32  # a batch's: a full-width network then takes under 1 GB
_LARGEST_TABLE: Final = 20  # classes; a larger confusion matrix fits no terminal


@dataclass(frozen=True)
class _Model:
    """A checkpoint or an exported model, ready to answer."""

    labels: tuple[str, ...]
    """The K classes, in the order of the outputs."""
    preprocessing: Preprocessing
    """Which images it takes."""
    engine: str
    """What runs it: `PyTorch` or `ONNX Runtime`."""
    precision: str
    """`fp32`, `fp16` or `int8`."""
    device: str
    """Where: `cpu` or `cuda`."""
    predict: Callable[[NDArray[np.uint8]], NDArray[np.floating]]
    """Images (N, S, S, C) to probabilities (N, K)."""


@click.command("eval")
@click.argument("model", type=PATH)
@click.argument("data", type=PATH)
@dataset_option
@download_option
@click.option(
    "--split",
    type=click.Choice(["test", "holdout", "train", "all"]),
    default="test",
    show_default=True,
    help="Images to take; train is without the hold-out, which choices are made on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--plot",
    type=PATH,
    metavar="FILE.png",
    help="Draw the confusion matrix.",
)
@provider_option
def command(
    model: Path,
    data: Path,
    official: str | None,
    download: bool,
    split: str,
    as_json: bool,
    plot: Path | None,
    provider: str,
) -> None:
    """Score MODEL on DATA: accuracy, calibration error, thresholds, each class, confusion matrix.

    MODEL is a checkpoint (.safetensors, or a name such as nin-cifar10), which PyTorch runs, or an
    exported model (.onnx). DATA is
    a folder or archive of <class>/* or train/<class>/* and test/<class>/*, or an official archive
    as `nin-edge train` takes it; its classes are the model's.
    """
    if plot is not None:
        _check_plot(plot)
    from nin_edge.data.datasets import check_labels

    opened = _open(model, provider)
    size, channels = opened.preprocessing.size, opened.preprocessing.channels
    dataset = open_data(data, size, channels, official, fetch=download)
    check_labels(dataset, opened.labels)
    scores = _score(model, opened, dataset, split)
    if as_json:
        about = {
            "model": str(model),
            "engine": opened.engine,
            "precision": opened.precision,
            "provider": opened.device,
            "data": dataset.name,
            "split": split,
            "unreadable": len(dataset.unreadable),
        }
        click.echo(json.dumps(about | scores.as_json(), allow_nan=False))
    else:
        for line in _report(model, opened, dataset, split, scores):
            click.echo(line)
    if plot is not None:  # last: where it fails, the figures are printed
        from nin_edge.files import write_atomically
        from nin_edge.plots import confusion_figure, to_png

        title = f"{model.name} on {dataset.name} ({split}): top-1 {scores.top1:.2%}"
        labels = [printable(label) for label in scores.labels]
        figure = confusion_figure(labels, scores.confusion, printable(title))
        write_atomically(plot, to_png(figure))
        click.echo(f"confusion matrix: {printable(str(plot))}", err=True)


def _check_plot(plot: Path) -> None:
    """Find before minutes of computing what would stop the plot after them."""
    from nin_edge_runtime.errors import MissingDependencyError, NinEdgeError

    if plot.suffix.lower() != ".png":
        raise click.UsageError(f"--plot {plot}: expected a name that ends in .png")
    if plot.is_dir():
        raise NinEdgeError(f"{plot}: a folder, expected a file to write the plot to")
    if not (plot.parent.is_dir() and os.access(plot.parent, os.W_OK)):
        raise NinEdgeError(f"{plot}: {plot.parent} is not a folder that can be written to")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "--plot needs matplotlib, which is not installed: pip install matplotlib"
        ) from error


def _open(path: Path, provider: str) -> _Model:
    """Load a checkpoint or a model file, whichever it is by its name, or weights that ship."""
    from nin_edge_runtime.errors import ModelFileError

    path = path if path.suffix else find_weights(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _open_checkpoint(path, provider)
    if suffix == ".onnx":
        return _open_onnx(path, provider)
    raise ModelFileError(f"{path}: expected a checkpoint (.safetensors) or a model (.onnx)")


def _open_onnx(path: Path, provider: str) -> _Model:
    import numpy as np

    from nin_edge_runtime import Classifier

    classify = Classifier(path, provider=provider)

    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        return np.stack([answer.probabilities for answer in classify.batch(list(images))])

    info = classify.info
    return _Model(
        classify.labels,
        info.preprocessing,
        "ONNX Runtime",
        info.precision,
        classify.provider,
        predict,
    )


def _open_checkpoint(path: Path, provider: str) -> _Model:
    import numpy as np

    from nin_edge import metrics
    from nin_edge import predict as evaluate
    from nin_edge.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(path)
    device = torch_device("--provider", provider)
    network = checkpoint.network().to(device)

    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        every = np.arange(len(images))
        logits = evaluate.logits(network, checkpoint.preprocessing, images, every, device)
        return metrics.softmax(logits, checkpoint.temperature or 1.0)

    return _Model(checkpoint.labels, checkpoint.preprocessing, "PyTorch", "fp32", device, predict)


def _score(path: Path, model: _Model, dataset: Dataset, split: str) -> Scores:
    """Run the model over a split, a batch at a time, and score its answers."""
    import numpy as np

    from nin_edge.data.datasets import DatasetError
    from nin_edge.metrics import Tally
    from nin_edge_runtime.errors import ModelFileError

    indices = {
        "test": dataset.test,
        "holdout": dataset.holdout,
        "train": dataset.train,
        "all": np.arange(len(dataset.targets)),
    }[split]
    if not len(indices):
        raise DatasetError(
            f"{dataset.name}: no images in its split {split!r}; "
            f"--split all takes all {len(dataset.targets):,}"
        )
    tally, progress = Tally(model.labels), show_progress("evaluating images")
    batch = max(1, min(100, _BATCH_PIXELS // model.preprocessing.size**2))
    for start in range(0, len(indices), batch):
        chosen = indices[start : start + batch]
        probabilities = model.predict(dataset.images[chosen])
        try:
            tally.add(probabilities, dataset.targets[chosen])
        except ValueError as error:
            raise ModelFileError(f"{path}: its answers make no sense: {error}") from error
        progress(start + len(chosen), len(indices))
    return tally.scores()


def _report(
    path: Path, model: _Model, dataset: Dataset, split: str, scores: Scores
) -> Iterator[str]:
    """The figures as lines for people."""
    top5 = "" if scores.top5 is None else f"top-5 {scores.top5:.2%}, "
    yield printable(
        f"top-1 {scores.top1:.2%}, {top5}ECE {scores.ece:.4f}, {scores.count:,} images of "
        f"{dataset.name} ({split}), {path} ({model.precision}) by {model.engine} on {model.device}"
    )
    yield ""
    yield "min-score  answered  of those right"
    for found in scores.thresholds:
        right = "-" if found.top1 is None else f"{found.top1:.2%}"
        yield f"{found.min_score:<9g}  {found.coverage:>8.2%}  {right:>14}"
    names = [printable(label) for label in scores.labels]
    width = max(len("class"), *map(len, names))
    yield ""
    yield f"{'class'.ljust(width)}  precision   recall       F1  support"
    for index, name in enumerate(names):
        shares = (scores.precision[index], scores.recall[index], scores.f1[index])
        cells = ["-" if math.isnan(share) else f"{share:.2%}" for share in shares]
        yield (
            f"{name.ljust(width)}  {cells[0]:>9}  {cells[1]:>7}  {cells[2]:>7}  "
            f"{scores.support[index]:>7,}"
        )
    if len(names) > _LARGEST_TABLE:
        return
    yield ""
    yield "confusion: a row for each class, a column for each answer, in the same order"
    cell = max(len(str(scores.confusion.max())), len(str(len(names) - 1)))
    places = len(str(len(names) - 1))
    columns = "  ".join(f"{index:>{cell}}" for index in range(len(names)))
    yield f"{'':{places + 1 + width}}  {columns}"
    for index, name in enumerate(names):
        row = "  ".join(f"{count:>{cell}}" for count in scores.confusion[index])
        yield f"{index:>{places}} {name.ljust(width)}  {row}"

"""`nin-edge eval`: how good a model's predictions on labelled images are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nin_edge.cli._common import PATH, check_file, printable, provider_option
from nin_edge.cli._data import (
    SPLIT_CHOICES,
    dataset_option,
    download_option,
    explain_split,
    labels_option,
    open_data,
    show_download,
    show_progress,
    test_split_option,
    zip_encoding_option,
)

if TYPE_CHECKING:
    from nin_edge.metrics import Scores

_LARGEST_TABLE: Final = 20  # classes; a larger confusion matrix fits no terminal


@click.command("eval", short_help="Score MODEL on DATA: accuracy, calibration, confusion.")
@click.argument("model", type=PATH)
@click.argument("data", type=PATH)
@dataset_option
@download_option
@labels_option
@test_split_option
@zip_encoding_option
@click.option(
    "--split",
    type=click.Choice(SPLIT_CHOICES),
    help="Images to score; train is without the hold-out. If not given: the test split, else the "
    "validation split, else the hold-out; all images of data without splits that lack a class.",
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
    labels: Path | None,
    test_split: float | None,
    zip_encoding: str | None,
    split: str | None,
    as_json: bool,
    plot: Path | None,
    provider: str,
) -> None:
    """Score MODEL on DATA: accuracy, calibration, thresholds, confusion.

    MODEL is a checkpoint (.safetensors, or a name such as nin-cifar10), which PyTorch runs, or an
    exported model (.onnx), which ONNX Runtime runs. DATA is a folder or archive of <class>/*, or
    of train/<class>/* beside validation/ or test/, or an official data set as `nin-edge train`
    takes it. Its classes are the model's, or some of them.
    """
    if plot is not None:
        _check_plot(plot)
    from nin_edge.data import locate
    from nin_edge.files import mark_beside
    from nin_edge.predict import evaluate, open_predictor
    from nin_edge.text import accuracy

    predictor = open_predictor(model, provider)
    steps = predictor.preprocessing
    location = locate(
        *(data,),
        official=official,
        labels=labels,
        test_split=test_split,
        zip_encoding=zip_encoding,
        download=download,
        progress=show_download,
    )
    dataset = open_data(location, steps.size, steps.channels, predictor.labels)
    if split is None:
        split = dataset.default_split
        explain_split(dataset)
    scores = evaluate(predictor, dataset, split, show_progress("evaluating images"))
    if as_json:
        about = {
            "model": str(model),
            "engine": predictor.engine,
            "precision": predictor.precision,
            "provider": predictor.device,
            "data": dataset.name,
            "split": split,
            "missing": dataset.missing,
            "unreadable": len(dataset.unreadable),
        }
        click.echo(json.dumps(about | scores.to_json(), allow_nan=False))
    else:
        top5 = "" if scores.top5 is None else f"top-5 {scores.top5:.2%}, "
        summary = (
            f"top-1 {accuracy(scores.top1, scores.top1_interval)}, {top5}ECE {scores.ece:.4f}, "
            f"{scores.count:,} images of {dataset.name} ({split}), {model} ({predictor.precision}) "
            f"by {predictor.engine} on {predictor.device}"
        )
        click.echo(printable(summary))
        for line in _tables(scores):
            click.echo(line)
    if plot is not None:  # last: where it fails, the figures are printed
        title = f"{model.name} on {dataset.name} ({split}): top-1 {scores.top1:.2%}"
        _draw(plot, scores, title)
        mark_beside(data, plot)


def _check_plot(plot: Path) -> None:
    """Refuse before minutes of computing what would stop the plot after them."""
    from nin_edge_runtime.errors import MissingDependencyError

    check_file("--plot", plot, ".png")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "--plot needs matplotlib, which is not installed: pip install matplotlib"
        ) from error


def _draw(plot: Path, scores: Scores, title: str) -> None:
    """Write the confusion matrix as a picture."""
    from nin_edge.files import write_atomically
    from nin_edge.plots import confusion_figure, to_png

    labels = [printable(label) for label in scores.labels]
    write_atomically(plot, to_png(confusion_figure(labels, scores.confusion, printable(title))))
    click.echo(f"confusion matrix: {printable(str(plot))}", err=True)


def _tables(scores: Scores) -> Iterator[str]:
    """The lines of the tables: thresholds, classes, and the confusion matrix if it is small."""
    yield ""
    yield "min-score  coverage   accuracy"
    for threshold in scores.thresholds:
        accuracy = "-" if threshold.top1 is None else f"{threshold.top1:.2%}"
        yield f"{threshold.min_score:<9g}  {threshold.coverage:>8.2%}  {accuracy:>9}"
    names = [printable(label) for label in scores.labels]
    width = max(len("class"), *map(len, names))
    yield ""
    yield f"{'class'.ljust(width)}  precision   recall       F1  support"
    classes = zip(names, scores.precision, scores.recall, scores.f1, scores.support, strict=True)
    for name, *shares, support in classes:
        cells = ["-" if math.isnan(share) else f"{share:.2%}" for share in shares]
        yield f"{name.ljust(width)}  {cells[0]:>9}  {cells[1]:>7}  {cells[2]:>7}  {support:>7,}"
    if len(names) > _LARGEST_TABLE:
        return
    yield ""
    yield "confusion matrix: a row for each true class, a column for each predicted one"
    places = len(str(len(names) - 1))
    cell = max(len(str(scores.confusion.max())), places)
    columns = "  ".join(f"{index:>{cell}}" for index in range(len(names)))
    yield f"{'':{places + 1 + width}}  {columns}"
    for index, name in enumerate(names):
        row = "  ".join(f"{count:>{cell}}" for count in scores.confusion[index])
        yield f"{index:>{places}} {name.ljust(width)}  {row}"

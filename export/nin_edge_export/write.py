"""Writing an export: the model files and the report on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.files import write_atomically
from nin_edge_export.export import ExportedModel
from nin_edge_export.report import Report, measure, to_html, to_json


@dataclass(frozen=True, eq=False)
class Exported:
    """A finished export on the disk."""

    models: tuple[ExportedModel, ...]
    """The models, in the order of their precisions."""
    files: tuple[Path, ...]
    """Their files, in the same order."""
    report_html: Path
    """All figures as a page."""
    report_json: Path
    """All figures as JSON."""
    report: Report
    """All figures."""


def export_name(weights: Path) -> str:
    """Base name of the exported files: the run's folder for best and last, else the file's stem."""
    if weights.stem in ("best", "last"):
        return weights.resolve().parent.name or weights.stem
    return weights.stem


def write_export(
    models: Sequence[ExportedModel],
    checkpoint: Checkpoint,
    *,
    name: str,
    output: Path,
    dataset: Dataset | None = None,
) -> Exported:
    """Measure the latency of models, and write them with a report; existing files are replaced.

    Args:
        models: from `export_models`, at least one.
        checkpoint: what they were made from.
        name: the files are called `NAME.PRECISION.onnx`, `NAME.report.html` and
            `NAME.report.json`.
        output: folder to write to; it is made if missing.
        dataset: the data set that the models were measured on, if any.

    Raises:
        OSError: a file cannot be written; no file is left half written.
    """
    report = measure(models, checkpoint, name=name, dataset=dataset)
    files = tuple(output / f"{name}.{model.info.precision}.onnx" for model in models)
    page, figures = output / f"{name}.report.html", output / f"{name}.report.json"
    html, json = to_html(report), to_json(report)  # before anything is written: either may fail
    output.mkdir(parents=True, exist_ok=True)
    for path, model in zip(files, models, strict=True):
        write_atomically(path, model.data)
    write_atomically(figures, json)
    write_atomically(page, html)
    return Exported(tuple(models), files, page, figures, report)

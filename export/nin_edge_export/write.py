"""Finished files and their report, on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nin_edge.checkpoint import Checkpoint
from nin_edge.data.datasets import Dataset
from nin_edge.files import write_atomically
from nin_edge_export.export import ExportedModel


@dataclass(frozen=True)
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


def export_name(weights: Path) -> str:
    """What to name the files of a checkpoint: itself, or its run where the run gave it its name."""
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
    """Measure the latency of models, and write them with a report; existing files are replaced."""
    from nin_edge_export.report.figures import measure, to_json
    from nin_edge_export.report.html import to_html

    report = measure(list(models), checkpoint, name=name, dataset=dataset)
    files = tuple(output / f"{name}.{model.info.precision}.onnx" for model in models)
    page, figures = output / "report.html", output / "report.json"
    html, json = to_html(report), to_json(report)
    output.mkdir(parents=True, exist_ok=True)
    for path, model in zip(files, models, strict=True):
        write_atomically(path, model.data)
    write_atomically(figures, json)
    write_atomically(page, html)
    return Exported(tuple(models), files, page, figures)

"""`nin-edge export`: a checkpoint to model files for devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nin_edge.cli._common import PATH, NumberRange, printable, shell_quoted
from nin_edge.weights import DEFAULT_WEIGHTS, find_weights

if TYPE_CHECKING:
    from nin_edge_export import ExportedModel

_LOSS_WORTH_A_WARNING = 1.0  # percentage points


@click.command("export", short_help="Export WEIGHTS to model files in fp32, fp16 and int8.")
@click.argument("weights", type=PATH, default=DEFAULT_WEIGHTS, metavar="[WEIGHTS]")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "int8"]),
    multiple=True,
    help="Which file to make; may be given several times; all three if not given.",
)
@click.option(
    "--embed-preprocess",
    type=click.Choice(["full", "normalize", "none"]),
    default="full",
    show_default=True,
    help="Steps the graph does itself: crop, resize and normalise; normalise alone; or none.",
)
@click.option(
    "--opset",
    type=click.IntRange(18, 22),
    default=18,
    show_default=True,
    help="Version of the ONNX operators; 18 runs everywhere.",
)
@click.option(
    "--batch", type=click.IntRange(1, 4096), help="Fix the images a run; any if not given."
)
@click.option(
    "--eval-data",
    type=PATH,
    help="Measure accuracy and agreement with PyTorch on this data's test split.",
)
@click.option(
    "--max-drop",
    type=NumberRange(0, 100),
    help="Percentage points int8 may lose on the hold-out of --eval-data; layers return to float.",
)
@click.option(
    "--calibration",
    type=PATH,
    help="Measure int8's ranges on this data's training images, not take the recorded ones.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Most images to calibrate on.",
)
@click.option(
    "--calibration-method",
    type=click.Choice(["minmax", "percentile", "entropy"]),
    help="How a range is found from values; minmax if not given. entropy needs --calibration.",
)
@click.option("-o", "--output", type=PATH, default=Path(), help="Folder to write to.")
def command(
    weights: Path,
    precisions: tuple[str, ...],
    eval_data: Path | None,
    calibration: Path | None,
    output: Path,
    **options: Any,
) -> None:
    """Export WEIGHTS to model files.

    They are a checkpoint of `nin-edge train`, or go by name where they ship with it: nin-cifar10
    (the default), nin-cifar10-half and nin-cifar10-quarter.

    Writes NAME.fp32.onnx, NAME.fp16.onnx, NAME.int8.onnx, report.html and report.json. Every model
    is compared with PyTorch before any is written; beyond the tolerance or the budget nothing is,
    and the exit code is 3.
    """
    if options["max_drop"] is not None and eval_data is None:
        raise click.UsageError("--max-drop is measured on --eval-data DATA, which is missing")
    of_int8 = (calibration, options["max_drop"], options["calibration_method"])
    if precisions and "int8" not in precisions and of_int8 != (None, None, None):
        raise click.UsageError("--max-drop and --calibration are for int8, which --precision omits")
    if options["calibration_method"] == "entropy" and calibration is None:
        raise click.UsageError("--calibration-method entropy needs --calibration DATA")
    from nin_edge.checkpoint import Checkpoint
    from nin_edge.cli._data import describe, require_folder, show_progress
    from nin_edge.data import open_dataset
    from nin_edge.files import write_atomically

    weights = find_weights(weights)
    checkpoint = Checkpoint.load(weights)
    require_folder(output)
    steps = checkpoint.preprocessing
    reading = show_progress("reading images")
    datasets = {}
    for path in (eval_data, calibration):
        if path is not None and path not in datasets:
            datasets[path] = open_dataset(
                path, size=steps.size, channels=steps.channels, progress=reading
            )
            describe(datasets[path])
    # After the cheap checks: it brings torch's exporter.
    from nin_edge_export import DEFAULT_METHOD, PRECISIONS, ExportOptions, export_models
    from nin_edge_export.report.figures import measure, to_json
    from nin_edge_export.report.html import to_html

    dataset = datasets[eval_data] if eval_data else None
    models = export_models(
        checkpoint,
        ExportOptions(
            precisions=tuple(name for name in PRECISIONS if name in (precisions or PRECISIONS)),
            embedded=options["embed_preprocess"],
            opset=options["opset"],
            batch=options["batch"],
            method=options["calibration_method"] or DEFAULT_METHOD,
            calibration_images=options["calibration_images"],
            max_drop=options["max_drop"],
        ),
        dataset=dataset,
        calibration=datasets.get(calibration) if calibration else None,
        progress=lambda what, done, total: show_progress(what)(done, total),
    )
    # A run's best.safetensors is better named by its run.
    name = weights.stem
    if name in ("best", "last"):
        name = weights.resolve().parent.name or name
    files = {output / f"{name}.{model.info.precision}.onnx": model.data for model in models}
    report = measure(models, checkpoint, name=name, dataset=dataset)
    page = output / "report.html"
    output.mkdir(parents=True, exist_ok=True)
    for path, data in {
        **files,
        output / "report.json": to_json(report),
        page: to_html(report),
    }.items():
        write_atomically(path, data)
    for path, model in zip(files, models, strict=True):
        click.echo(printable(f"{path}: {_summary(model)}"))
        _warn_of_loss(model)
    click.echo(printable(f"{page}: all figures; as numbers in report.json"))
    click.echo(f"next: nin-edge run IMAGE --model {shell_quoted(list(files)[-1])}")


def _warn_of_loss(model: ExportedModel) -> None:
    """Say that int8 lost accuracy where nobody set a limit to it."""
    budget = model.info.certificate.get("budget")
    if not isinstance(budget, dict) or budget["max_drop_points"] is not None:
        return
    if budget["drop_points"] >= _LOSS_WORTH_A_WARNING:
        click.echo(
            f"warning: int8 loses {budget['drop_points']:.2f} points on the hold-out; "
            "--max-drop POINTS returns layers to float until less is lost",
            err=True,
        )


def _summary(model: ExportedModel) -> str:
    """What a file is, on one line."""
    certificate = model.info.certificate
    images, budget = certificate["images"], certificate.get("budget")
    golden = certificate["golden"]
    parts = [f"{len(model.data):,} bytes"]
    if isinstance(images, dict):
        parts.append(
            f"top-1 {certificate['accuracy']['top1']:.2%}, as PyTorch answers on "
            f"{images['top1_agreement']:.2%} of {images['count']:,} images of {images['data']}"
        )
    else:
        parts.append(
            f"within {golden['max_abs_difference']:.2g} of PyTorch "
            f"on {golden['count']} golden samples"
        )
    if isinstance(budget, dict):
        parts.append(f"{budget['drop_points']:.2f} points lost on the hold-out")
        kept = certificate["float_layers"]
        parts.append(f"in float: {', '.join(kept) if kept else 'no convolution'}")
    return ", ".join(parts)

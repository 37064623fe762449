"""`nin-edge export`: a checkpoint to model files for devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nin_edge.cli._common import PATH, NumberRange, printable, shell_quoted
from nin_edge.weights import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from nin_edge.api import ExportSettings
    from nin_edge_export import ExportedModel
    from nin_edge_export.report import Report

_LOSS_WORTH_A_WARNING: Final = 1.0  # percentage points


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
    help="Steps in the graph: crop, resize and normalise; normalise alone; or none.",
)
@click.option(
    "--opset",
    type=click.IntRange(13, 22),
    default=18,
    show_default=True,
    help="Version of the ONNX operators; below 18 without --embed-preprocess full, for compilers "
    "that want old graphs.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),  # limits.MAX_BATCH; importing it would load NumPy
    help="Fix the number of images of one run; any number if not given.",
)
@click.option(
    "--eval-data",
    type=PATH,
    help="Measure accuracy and agreement with PyTorch on this data's test split; the run's own "
    "data if WEIGHTS is a run's folder.",
)
@click.option("--no-eval", is_flag=True, help="Do not measure on the run's own data.")
@click.option(
    "--max-drop",
    type=NumberRange(0, 100),
    help="Percentage points int8 may lose on the hold-out of --eval-data; layers return to float.",
)
@click.option(
    "--calibration",
    type=PATH,
    help="Measure int8's activation ranges on this data's training images; "
    "those recorded in training if not given.",
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
@click.option(
    "--triton",
    type=PATH,
    metavar="DIR",
    help="Write a model repository for Triton Inference Server, too, or new versions to one.",
)
@click.option("-o", "--output", type=PATH, default=Path(), help="Folder to write to.")
def command(
    weights: Path,
    eval_data: Path | None,
    no_eval: bool,
    calibration: Path | None,
    triton: Path | None,
    output: Path,
    **options: Any,
) -> None:
    """Export WEIGHTS to model files.

    WEIGHTS is a checkpoint of `nin-edge train`, a run's folder, or the name of weights that ship:
    nin-cifar10 (the default), nin-cifar10-half, nin-cifar10-quarter and nin-photo.

    Writes NAME.fp32.onnx, NAME.fp16.onnx, NAME.int8.onnx, NAME.report.html and NAME.report.json.
    Every model is compared with PyTorch before any is written. Beyond the tolerance or the budget
    nothing is written, and the exit code is 3.
    """
    if no_eval and eval_data is not None:
        raise click.UsageError("--no-eval and --eval-data exclude each other")
    if options["max_drop"] is not None and (no_eval or not (eval_data or weights.is_dir())):
        raise click.UsageError("--max-drop is measured on --eval-data DATA, which is missing")
    if options["opset"] < 18 and options["embed_preprocess"] == "full":
        raise click.UsageError(
            "--opset below 18 has no anti-aliased resize: --embed-preprocess normalize or none"
        )
    _check_int8_options(calibration, **options)
    from nin_edge import api
    from nin_edge.cli._data import show_event
    from nin_edge.files import require_folder

    if triton is not None:
        require_folder(triton)
    exported = api.export(
        weights,
        output,
        eval_data=False if no_eval else eval_data,
        calibration=calibration,
        on_progress=show_event,
        **_settings(**options),
    )
    for index, (path, model) in enumerate(zip(exported.files, exported.models, strict=True)):
        latency = _latency(exported.report, index)
        click.echo(printable(f"{path}: {len(model.data):,} bytes, {latency}, {_summary(model)}"))
        _warn_of_loss(model)
    figures = exported.report_json.name
    click.echo(printable(f"{exported.report_html}: all figures; as numbers in {figures}"))
    if triton is not None:
        from nin_edge_export.triton import write_repository

        for written in write_repository(exported.models, exported.report.name, triton):
            click.echo(printable(f"{written.folder}: model {written.name} for Triton"))
    click.echo(f"next: nin-edge run IMAGE --model {shell_quoted(exported.files[-1])}")


def _check_int8_options(
    calibration: Path | None,
    *,
    precisions: tuple[str, ...],
    max_drop: float | None,
    calibration_method: str | None,
    **_: Any,
) -> None:
    """Refuse options of int8 that lack their data, or int8."""
    given = (calibration, max_drop, calibration_method)
    if precisions and "int8" not in precisions and given != (None, None, None):
        raise click.UsageError("--max-drop and --calibration are for int8, which --precision omits")
    if calibration_method == "entropy" and calibration is None:
        raise click.UsageError("--calibration-method entropy needs --calibration DATA")


def _settings(
    *,
    precisions: tuple[str, ...],
    embed_preprocess: str,
    opset: int,
    batch: int | None,
    calibration_method: str | None,
    calibration_images: int,
    max_drop: float | None,
) -> ExportSettings:
    """The options that were given, by the library's names."""
    settings: ExportSettings = {
        "embedded": embed_preprocess,
        "opset": opset,
        "calibration_images": calibration_images,
    }
    if precisions:
        settings["precisions"] = precisions
    if batch is not None:
        settings["batch"] = batch
    if calibration_method is not None:
        settings["method"] = calibration_method
    if max_drop is not None:
        settings["max_drop"] = max_drop
    return settings


def _warn_of_loss(model: ExportedModel) -> None:
    """Warn where int8 lost accuracy and no limit was set."""
    budget = model.info.certificate.budget
    if budget is None or budget.max_drop_points is not None:
        return
    if budget.drop_points >= _LOSS_WORTH_A_WARNING:
        click.echo(
            f"warning: int8 loses {budget.drop_points:.2f} points on the hold-out; "
            "--max-drop POINTS returns layers to float until less is lost",
            err=True,
        )


def _latency(report: Report, index: int) -> str:
    """What a file takes on this machine; int8 beside the latency that the width was chosen for."""
    file, images, target = report.files[index], report.machine.images, report.latency_target_ms
    text = f"{file.latency_ms:.3g} ms on one thread"
    if images > 1:
        return f"{text} for {images} images"
    return f"{text} (target {target:g} ms)" if target and file.info.precision == "int8" else text


def _summary(model: ExportedModel) -> str:
    """How close a file is to PyTorch."""
    certificate = model.info.certificate
    accuracy, images, golden = certificate.accuracy, certificate.images, certificate.golden
    parts = list[str]()
    if accuracy and images:
        from nin_edge.metrics import wilson_interval
        from nin_edge.text import accuracy as shown_accuracy

        correct = round(accuracy.top1 * accuracy.images)
        shown = shown_accuracy(accuracy.top1, wilson_interval(correct, accuracy.images))
        parts.append(
            f"top-1 {shown}, top-1 agreement with PyTorch "
            f"{images.top1_agreement:.2%} on {images.count:,} images of {images.data}"
        )
    elif golden:
        parts.append(
            f"within {golden.max_abs_difference:.2g} of PyTorch on {golden.count} golden samples"
        )
    if certificate.budget:
        parts.append(f"{certificate.budget.drop_points:.2f} points lost on the hold-out")
        parts.append(f"in float: {', '.join(certificate.float_layers) or 'no convolution'}")
    return ", ".join(parts)

"""`nin-edge export`: a checkpoint to a model file for devices."""

from __future__ import annotations

import sys
from pathlib import Path

import click

DEFAULT_WEIGHTS = Path(__file__).parent.parent / "weights" / "nin-cifar10.safetensors"


@click.command("export")
@click.argument(
    "weights", type=click.Path(path_type=Path), default=DEFAULT_WEIGHTS, metavar="[WEIGHTS]"
)
@click.option(
    "--embed-preprocess",
    type=click.Choice(["full", "normalize", "none"]),
    default="full",
    show_default=True,
    help="Steps the graph does itself: crop, resize and normalise; normalise alone; or none.",
)
@click.option(
    "--eval-data",
    type=click.Path(path_type=Path),
    help="Compare with PyTorch on this data's test split too.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path(), help="Folder to write to."
)
def command(weights: Path, embed_preprocess: str, eval_data: Path | None, output: Path) -> None:
    """Export WEIGHTS, from `nin-edge train` (the default ones if not given), to NAME.fp32.onnx.

    The file is compared with PyTorch before it is written; beyond the tolerance nothing is, and the
    exit code is 3.
    """
    from nin_edge.checkpoint import Checkpoint
    from nin_edge.datasets import open_dataset
    from nin_edge.files import write_atomically

    checkpoint = Checkpoint.load(weights)
    output.mkdir(parents=True, exist_ok=True)
    from nin_edge_export import export_model  # after the cheap checks: it brings torch's exporter

    dataset = None
    if eval_data is not None:
        steps = checkpoint.preprocessing
        dataset = open_dataset(eval_data, size=steps.size, channels=steps.channels)
    model = export_model(checkpoint, embedded=embed_preprocess, dataset=dataset, progress=_show)
    # A run's best.safetensors is better named by its run.
    name = weights.resolve().parent.name if weights.stem in ("best", "last") else weights.stem
    path = output / f"{name}.{model.info.precision}.onnx"
    write_atomically(path, model.data)
    golden, images = (model.info.certificate[key] for key in ("golden", "images"))
    click.echo(
        f"{path}: {len(model.data):,} bytes, within {golden['max_abs_difference']:.1g} of PyTorch "
        f"on {golden['count']} golden samples"
    )
    if isinstance(images, dict):
        click.echo(
            f"{images['data']}: within {images['max_abs_difference']:.1g} of PyTorch, "
            f"top-1 {images['top1']:.2%}, "
            f"the same answer on {images['top1_agreement']:.2%} of {images['count']:,} images"
        )
    click.echo(f"next: nin-edge run IMAGE --model {path}")


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rcomparing images {done:,} / {total:,}", nl=done == total, err=True)

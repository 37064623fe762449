"""`nin-edge web`: a model file to a page that classifies in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from nin_edge.cli._common import PATH, printable, shell_quoted


@click.command("web", short_help="Write a page that classifies with MODEL in the browser.")
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder to write to.")
@click.option(
    "--download",
    is_flag=True,
    help="Fetch ONNX Runtime Web from the npm registry, if it is not in the cache.",
)
@click.option(
    "--onnxruntime-web",
    type=PATH,
    metavar="FOLDER",
    help="Take ONNX Runtime Web from npm's folder node_modules/onnxruntime-web.",
)
def command(model: Path, output: Path, download: bool, onnxruntime_web: Path | None) -> None:
    """Write a page that classifies with MODEL in the browser.

    Any server of static files serves the folder. The page has all that it needs, sends nothing, and
    works offline once loaded. ONNX Runtime Web, which runs the model, is fetched by --download
    alone.
    """
    if download and onnxruntime_web is not None:
        raise click.UsageError("--download and --onnxruntime-web exclude each other")
    from nin_edge.cli._data import show_download
    from nin_edge.web import write_page

    page = write_page(
        model,
        output,
        onnxruntime_web=onnxruntime_web,
        fetch=download,
        progress=show_download,
    )
    size = sum(page.files.values())
    click.echo(
        f"{printable(str(output / 'index.html'))}: a page for {len(page.info.labels)} labels, "
        f"{len(page.files)} files of {size / 1e6:.1f} MB"
    )
    click.echo(
        "next: python3 -m http.server --bind 127.0.0.1 --directory "
        f"{shell_quoted(output)}, then open http://localhost:8000"
    )

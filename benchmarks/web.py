"""How large is the page of `nin-edge web`, and how soon does it answer?

    python -m benchmarks.web [--screenshots docs]

Writes the page for each file of the default weights and loads it in headless Chromium from this
machine, each time with nothing cached. The photo is chosen as soon as the page is there: its first
answer needs ONNX Runtime, the model, and the check of its SHA-256. `make js` installs what it
needs, but for Chromium.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from benchmarks import _browser
from benchmarks._result import ROOT, Row, answer, parser
from benchmarks.javascript import exported
from nin_edge.web import write_page
from nin_edge_runtime import DEFAULT_MODEL

ROUNDS: Final = 11
CALLS: Final = 50
PHOTO: Final = ROOT / "examples" / "cat.jpg"


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("--screenshots", type=Path, metavar="FOLDER", help="take them, too")
    options = arguments.parse_args()
    if (reason := _browser.missing()) is not None:
        raise SystemExit(f"benchmarks.web: {reason}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.screenshots:
            screenshots(folder, options.screenshots.absolute())
        sites = {}
        for precision, model in exported(folder):
            sites[precision] = str(folder / f"page {precision}")
            page = Path(sites[precision])
            write_page(model, page, onnxruntime_web=_browser.ONNXRUNTIME_WEB)
        sizes = _browser.run("sizes.js", {"sites": list(sites.values())}, folder)
        rows: list[Row] = [
            {"precision": precision, **summed(files), **timed(site, folder)}
            for (precision, site), files in zip(sites.items(), sizes, strict=True)
        ]
    versions = ", ".join(f"{name} {version}" for name, version in _browser.versions().items())
    notes = [f"In the browser: {versions}."]
    load, processors = os.getloadavg()[1], os.cpu_count() or 1
    if load > processors:
        notes.append(f"The machine was busy: a load of {load:.0f} on {processors} CPUs.")
    answer(
        "web",
        rows,
        rounds=f"medians of {ROUNDS} loads and {CALLS} calls",
        packages=("nin-edge",),
        notes=notes,
        output=options.output,
    )


def summed(files: Sequence[Mapping[str, Any]]) -> Row:
    """Bytes of a page's parts."""
    sizes = {file["name"]: file["bytes"] for file in files}
    runtime = sum(size for name, size in sizes.items() if name.startswith("onnxruntime-web"))
    return {
        "page_bytes": sum(sizes.values()) - runtime - sizes["model.onnx"],
        "onnxruntime_bytes": runtime,
        "model_bytes": sizes["model.onnx"],
        "brotli_bytes": sum(file["brotli"] for file in files),
    }


def timed(site: str, folder: Path) -> Row:
    """How long a page takes to answer."""
    task = {"site": site, "images": [str(PHOTO)] * CALLS, "rounds": ROUNDS}
    found = _browser.run("classify.js", task, folder)
    return {
        "first_answer_ms": statistics.median(found["first"]),
        "slowest_answer_ms": max(found["first"]),
        "latency_ms": statistics.median(one["milliseconds"] for one in found["answers"]),
    }


def screenshots(folder: Path, output: Path) -> None:
    """Take them of the page with the runtime's default model, in 256 colours."""
    write_page(DEFAULT_MODEL, folder / "site", onnxruntime_web=_browser.ONNXRUNTIME_WEB)
    task = {"site": str(folder / "site"), "photo": str(PHOTO), "output": str(output)}
    for path in _browser.run("screenshots.js", task, folder):
        with Image.open(path) as image:
            small = image.convert("RGB").quantize(256, kmeans=10)
        small.save(path, optimize=True)


if __name__ == "__main__":
    main()

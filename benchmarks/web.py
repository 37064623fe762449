"""How large is the page of `nin-edge web`, and how soon does it answer?

    python -m benchmarks.web [--screenshots docs]

Writes the page for each file of the default weights and loads it in headless Chromium from this
machine, each time with nothing cached. The photo is chosen as soon as the page is there: its first
answer needs ONNX Runtime, the model, and the check of its SHA-256. `make js` installs what it
needs, but for Chromium.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Final

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
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for precision, model in exported(folder):
            site = folder / precision
            write_page(model, site, onnxruntime_web=_browser.ONNXRUNTIME_WEB)
            rows.append(measured(precision, site, folder))
        if options.screenshots:
            screenshots(folder, options.screenshots.absolute())
    versions = ", ".join(f"{name} {version}" for name, version in _browser.versions().items())
    answer(
        "web",
        rows,
        rounds=f"{ROUNDS} loads and {CALLS} calls, medians",
        packages=(),
        notes=(f"In the browser: {versions}.",),
        output=options.output,
    )


def measured(precision: str, site: Path, folder: Path) -> Row:
    """Sizes and times of one page."""
    files = _browser.run("sizes.js", {"site": str(site)}, folder)
    sizes = {file["name"]: file["bytes"] for file in files}
    runtime = sum(size for name, size in sizes.items() if name.startswith("onnxruntime-web"))
    task = {"site": str(site), "images": [str(PHOTO)] * CALLS, "rounds": ROUNDS}
    found = _browser.run("classify.js", task, folder)
    return {
        "precision": precision,
        "page_bytes": sum(sizes.values()) - runtime - sizes["model.onnx"],
        "onnxruntime_bytes": runtime,
        "model_bytes": sizes["model.onnx"],
        "brotli_bytes": sum(file["brotli"] for file in files),
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
            small = image.quantize(256)
        small.save(path, optimize=True)


if __name__ == "__main__":
    main()

"""Which network and precision to take? Size, test error and latency of those for CIFAR-10.

    python -m benchmarks.pareto DATA [--plot docs/pareto.png]

DATA is the archive that they were trained on (docs/reference/weights.md). Each network is
exported by `nin-edge export --eval-data DATA`, so test errors and top-1 agreement with PyTorch are
those of the files. Latency is that of one image on one thread, all files in interleaved rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks._measure import CIFAR_WEIGHTS, WARM_UP, timed
from benchmarks._result import Row, answer, parser
from nin_edge_runtime import Classifier
from nin_edge_runtime.bench import interleave, median_ratio
from nin_edge_runtime.golden import golden_image

ROUNDS: Final = 60
CALLS: Final = 10
PRECISIONS: Final = ("fp32", "fp16", "int8")


def export(weights: str, data: Path, folder: Path) -> None:
    """Export weights in all precisions, measured on the test images."""
    command = [sys.executable, "-m", "nin_edge", "export", weights, "--eval-data", str(data)]
    subprocess.run([*command, "--output", str(folder)], check=True, stdout=subprocess.DEVNULL)


def facts(model: Path) -> dict[str, Any]:
    """What `nin-edge info --json` says of a file."""
    command = [sys.executable, "-m", "nin_edge", "info", "--json", str(model)]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
    return told


def latencies(models: Sequence[Path]) -> dict[Path, list[float]]:
    """Seconds of one image in each round, by file."""
    candidates = {}
    for path in models:
        classify = Classifier(path, provider="cpu", threads=1)
        size = classify.info.preprocessing.size  # an image of that size needs no resizing
        candidates[path] = timed(partial(classify, golden_image(0, size, size)), CALLS)
    interleave(candidates, lambda done: done < WARM_UP)
    return interleave(candidates, lambda done: done < ROUNDS)


def row(weights: str, model: Path, seconds: Sequence[float], fp32: Sequence[float]) -> Row:
    """One file's line of the table, with its latency over that of the same weights in fp32."""
    told = facts(model)
    certificate = told["certificate"]
    return {
        "weights": weights,
        "precision": told["precision"],
        "parameters": told["parameters"],
        "multiply_adds": told["multiply_adds"],
        "bytes": model.stat().st_size,
        "data": certificate["accuracy"]["data"],
        "test_images": certificate["accuracy"]["images"],
        "test_error": 1 - certificate["accuracy"]["top1"],
        "top1_agreement": certificate["images"]["top1_agreement"],
        "latency_ms": 1e3 * statistics.median(seconds),
        "latency_ratio": median_ratio(seconds, fp32),
    }


def plot(path: Path, rows: list[Row]) -> None:
    """Draw test error against int8 latency, with each network's int8 file size."""
    from matplotlib.figure import Figure

    from nin_edge.plots import COLOURS, to_png

    figure = Figure(figsize=(6, 3.4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    small: list[dict[str, Any]] = [dict(row) for row in rows if row["precision"] == "int8"]
    points = [(row["latency_ms"], 100 * row["test_error"]) for row in small]
    axes.plot(*zip(*points, strict=True), "o-", color=COLOURS["accent"], linewidth=1)
    for row, point in zip(small, points, strict=True):
        text = f"{row['weights']}\n{row['bytes'] / 1e3:,.0f} kB"
        axes.annotate(text, point, xytext=(8, 2), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="latency of one image, int8, one thread, ms",
        ylabel="test error, %",
        xlim=(0, 1.35 * max(x for x, _ in points)),
        ylim=(0, 1.2 * max(y for _, y in points)),
    )
    axes.spines[["top", "right"]].set_visible(False)
    path.write_bytes(to_png(figure))


def main() -> None:
    """Export, measure, write and draw."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--plot", type=Path, metavar="PNG")
    options = arguments.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for weights in CIFAR_WEIGHTS:
            export(weights, options.data, folder / weights)
        files = {
            weights: [folder / weights / f"{weights}.{name}.onnx" for name in PRECISIONS]
            for weights in CIFAR_WEIGHTS
        }
        seconds = latencies([path for paths in files.values() for path in paths])
        for weights, paths in files.items():
            fp32 = seconds[paths[0]]
            rows += [row(weights, path, seconds[path], fp32) for path in paths]
    answer(
        "pareto",
        rows,
        rounds=f"{ROUNDS} rounds of {CALLS} calls",
        packages=("onnxruntime", "numpy", "torch"),
        output=options.output,
    )
    if options.plot:
        plot(options.plot, rows)


if __name__ == "__main__":
    main()

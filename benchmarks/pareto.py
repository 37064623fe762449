"""Which network to take? Error against int8 latency of all weights that ship, as table and picture.

    python -m benchmarks.pareto DATA [--plot docs/pareto.png]

DATA is the archive of docs/training.md. Every network is exported as `nin-edge export --eval-data`
does it, so errors are those of the files; latencies are of one image on one thread, all files in
interleaved rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.machine import describe, interleave, timed
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import open_dataset
from nin_edge.network import count_parameters
from nin_edge.weights import WEIGHTS
from nin_edge_export import ExportedModel, ExportOptions, export_models
from nin_edge_runtime import Classifier
from nin_edge_runtime.bench import median_ratio
from nin_edge_runtime.golden import golden_image

ROUNDS: Final = 60
CALLS: Final = 10


@dataclass(frozen=True)
class Row:
    """One network."""

    name: str
    """Of its weights."""
    parameters: int
    """Its weights and biases."""
    multiply_adds: int
    """Of one image."""
    sizes: dict[str, int]
    """Bytes of its file by precision."""
    errors: dict[str, float]
    """Error on the test images by precision, 0 to 1."""
    seconds: dict[str, list[float]]
    """Of one image, each round, by precision."""

    def milliseconds(self, precision: str) -> float:
        """Median latency."""
        return 1e3 * statistics.median(self.seconds[precision])


def measure(data: Path, folder: Path) -> list[Row]:
    """Export and measure every network that ships, the largest first."""
    found = []
    for name, path in WEIGHTS.items():
        checkpoint = Checkpoint.load(path)
        dataset = open_dataset(data, size=checkpoint.config.size)
        options = ExportOptions(precisions=("fp32", "int8"))
        models = export_models(checkpoint, options, dataset=dataset)
        for model in models:
            (folder / f"{name}.{model.info.precision}.onnx").write_bytes(model.data)
        found.append((name, checkpoint, models))
    calls = {
        (name, model.info.precision): partial(
            Classifier(folder / f"{name}.{model.info.precision}.onnx", provider="cpu", threads=1),
            golden_image(0, checkpoint.config.size, checkpoint.config.size),  # nothing to resize
        )
        for name, checkpoint, models in found
        for model in models
    }
    candidates = {f"{name} {precision}": timed(c, CALLS) for (name, precision), c in calls.items()}
    interleave(candidates, 3)
    seconds = interleave(candidates, ROUNDS)
    rows = [
        Row(
            name=name,
            parameters=count_parameters(checkpoint.config),
            multiply_adds=checkpoint.config.multiply_adds(),
            sizes={model.info.precision: len(model.data) for model in models},
            errors={model.info.precision: _error(model) for model in models},
            seconds={m.info.precision: seconds[f"{name} {m.info.precision}"] for m in models},
        )
        for name, checkpoint, models in found
    ]
    return sorted(rows, key=lambda row: -row.multiply_adds)


def _error(model: ExportedModel) -> float:
    """Error rate on the test images, 0 to 1."""
    assert model.info.certificate.accuracy is not None  # there is a data set
    return 1 - model.info.certificate.accuracy.top1


def plot(path: Path, rows: list[Row]) -> None:
    """Draw error against int8 latency, with each network's int8 file size."""
    from matplotlib.figure import Figure

    from nin_edge.plots import COLOURS, to_png

    figure = Figure(figsize=(6, 3.4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    places = [(row.milliseconds("int8"), 100 * row.errors["int8"]) for row in rows]
    axes.plot(*zip(*places, strict=True), "o-", color=COLOURS["accent"], linewidth=1)
    for row, place in zip(rows, places, strict=True):
        text = f"{row.name}\n{row.sizes['int8'] / 1e3:,.0f} kB"
        axes.annotate(text, place, xytext=(8, 2), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="latency of one image, int8, one thread, ms",
        ylabel="test error, %",
        xlim=(0, 1.35 * max(x for x, _ in places)),
        ylim=(0, 1.2 * max(y for _, y in places)),
    )
    axes.spines[["top", "right"]].set_visible(False)
    path.write_bytes(to_png(figure))


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.data, Path(folder))
    print(describe("torch", "onnxruntime", "numpy"))
    print("| weights | parameters | multiply-adds | fp32 | int8 | error, fp32 | int8 |", end="")
    print(" latency, fp32 | int8 | ratio |")
    print("|" + "---|" * 10)
    for row in rows:
        print(
            f"| `{row.name}` | {row.parameters:,} | {row.multiply_adds / 1e6:.1f} million "
            f"| {row.sizes['fp32'] / 1e3:,.0f} kB | {row.sizes['int8'] / 1e3:,.0f} kB "
            f"| {row.errors['fp32']:.2%} | {row.errors['int8']:.2%} "
            f"| {row.milliseconds('fp32'):.2f} ms | {row.milliseconds('int8'):.2f} ms "
            f"| {median_ratio(row.seconds['int8'], row.seconds['fp32']):.2f} |"
        )
    print(f"latency: median of {ROUNDS} x {CALLS} calls, one thread, one image")
    if options.plot:
        plot(options.plot, rows)


if __name__ == "__main__":
    main()

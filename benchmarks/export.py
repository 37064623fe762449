"""What does an export of all three precisions take, and how fast are the files?

    python -m benchmarks.export [WEIGHTS]

Exports WEIGHTS (a checkpoint, or a name of weights that ship; the default ones if not given),
without data, in a process of its own: wall time after imports and that process's peak memory. Then
the files' latencies, one image of the network's size a run on one thread.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.machine import describe, interleave, report, run_step, timed
from nin_edge.weights import DEFAULT_WEIGHTS, find_weights
from nin_edge_runtime import Classifier
from nin_edge_runtime.golden import golden_image

ROUNDS, CALLS = 100, 5


def export(weights: Path, folder: Path) -> None:
    """Export every precision to `folder`; print the seconds it took and the peak memory."""
    from nin_edge.checkpoint import Checkpoint
    from nin_edge_export import export_models

    checkpoint = Checkpoint.load(weights)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    models = export_models(checkpoint)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    for model in models:
        (folder / f"{weights.stem}.{model.info.precision}.onnx").write_bytes(model.data)
    sizes = ", ".join(f"{model.info.precision} {len(model.data):,}" for model in models)
    print(
        f"{weights.stem}: {seconds:.1f} s, peak {peak / 1e3:,.0f} MB "
        f"({imported / 1e3:,.0f} MB after imports), bytes: {sizes}"
    )


def main() -> None:
    """Measure and print."""
    weights = find_weights(Path(sys.argv[1])) if len(sys.argv) > 1 else DEFAULT_WEIGHTS
    print(describe("torch", "onnx", "onnxruntime", "numpy"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A process inherits the peak of the one that starts it, so this one imports no torch.
        run_step("benchmarks.export", weights, folder)
        models = {
            precision: Classifier(
                folder / f"{weights.stem}.{precision}.onnx", provider="cpu", threads=1
            )
            for precision in ("fp32", "fp16", "int8")
        }
        side = models["fp32"].info.preprocessing.size
        image = golden_image(0, side, side)
        candidates = {
            precision: timed(partial(model, image), CALLS) for precision, model in models.items()
        }
        interleave(candidates, 3)
        report(interleave(candidates, ROUNDS))


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    else:
        export(Path(sys.argv[2]), Path(sys.argv[3]))

"""What does an export of all three precisions take, and how fast are the files?

    python -m benchmarks.export [WEIGHTS]

Exports WEIGHTS (the default ones if not given) and a fresh full-width network, without data, each
in a process of its own: wall time after imports and that process's peak memory. Then the full-width
files' latencies, one 32 x 32 image a run on one thread.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.machine import describe, interleave, report, run_step, timed
from nin_edge.weights import DEFAULT_WEIGHTS
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


def save_network(path: Path, width: float) -> None:
    """A `nin-bn` with fresh weights, and its ranges over synthetic images."""
    import torch

    from nin_edge import evaluate
    from nin_edge.checkpoint import Checkpoint, DataSource
    from nin_edge.network import NetworkConfig, NiN
    from nin_edge_runtime.image import Preprocessing

    torch.manual_seed(0)
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=10, width=width)).eval()
    preprocessing = Preprocessing(32, 3, mean=(0.5,) * 3, std=(0.25,) * 3)
    images = np.stack([golden_image(seed, 32, 32) for seed in range(64)])
    Checkpoint(
        config=network.config,
        weights=network.state_dict(),
        labels=tuple("abcdefghij"),
        preprocessing=preprocessing,
        data=DataSource("none"),
        ranges=evaluate.activation_ranges(network, preprocessing, images, np.arange(64)),
    ).save(path)


def main() -> None:
    """Measure and print."""
    weights = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_WEIGHTS
    print(describe("torch", "onnx", "onnxruntime", "numpy"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full = folder / "full-width.safetensors"
        # A process inherits the peak of the one that starts it, so this one imports no torch.
        for step in (("make", full, 1.0), ("export", weights, folder), ("export", full, folder)):
            run_step("benchmarks.export", *step)
        image = golden_image(0, 32, 32)
        models = {
            precision: Classifier(
                folder / f"full-width.{precision}.onnx", provider="cpu", threads=1
            )
            for precision in ("fp32", "fp16", "int8")
        }
        candidates = {
            f"full width, {precision}": timed(partial(model, image), CALLS)
            for precision, model in models.items()
        }
        interleave(candidates, 3)
        report(interleave(candidates, ROUNDS))


if __name__ == "__main__":
    if sys.argv[1:2] != ["--step"]:
        main()
    elif sys.argv[2] == "make":
        save_network(Path(sys.argv[3]), float(sys.argv[4]))
    else:
        export(Path(sys.argv[3]), Path(sys.argv[4]))

"""Which engines run an exported file as it is, and which answer wrongly without an error?

    python -m benchmarks.engines [WEIGHTS]

in an environment of its own, with folders for what does not go together with the rest:

    python3 -m venv build/engines
    build/engines/bin/pip install torch==2.13.0
    build/engines/bin/pip install -r benchmarks/engines-requirements.txt
    build/engines/bin/pip install --no-deps --target build/opencv4 opencv-python-headless==4.14.0.94
    python3 -m venv build/onnx2tf
    build/onnx2tf/bin/pip install onnx2tf==1.29.24

Each engine opens a file for every input, opset (13 where the graph has no `Resize`), free and fixed
batch, and precision, and runs the golden samples on one thread. They are compared with PyTorch's
probabilities and, by the tolerances of `nin-edge verify`, with the file's own. `nin_edge.engines`
in a file's metadata is this table (`nin_edge_export/engines.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks._engines import ENGINES, Engine, serve
from benchmarks._result import Row, answer, parser
from nin_edge_export.engines import BATCHES, OPSETS
from nin_edge_runtime.model_file import EMBEDDED
from nin_edge_runtime.verify import TOLERANCES

WEIGHTS: Final = "nin-cifar10-quarter"

Found: TypeAlias = tuple[float, float] | str
"""Differences from PyTorch and from the file, or the reason why there are none."""


def export(weights: Path, folder: Path) -> dict[Path, Row]:
    """A file for every input, opset, batch and precision, and what tells it from the others."""
    from nin_edge.checkpoint import Checkpoint
    from nin_edge.weights import find_weights
    from nin_edge_export import ExportOptions, export_models

    checkpoint = Checkpoint.load(find_weights(weights))
    files: dict[Path, Row] = {}
    for embedded in EMBEDDED:
        for opset in OPSETS:
            if embedded == "full" and opset < 18:
                continue
            for batch in BATCHES:
                options = ExportOptions(embedded=embedded, opset=opset, batch=batch)
                for model in export_models(checkpoint, options):
                    precision = model.info.precision
                    path = folder / f"{embedded}.{opset}.{batch or 'N'}.{precision}.onnx"
                    path.write_bytes(model.data)
                    files[path] = {
                        "embedded": embedded,
                        "opset": opset,
                        "batch": batch,
                        "precision": precision,
                    }
    return files


def measure(engine: Engine, paths: Sequence[Path], folder: Path) -> Iterator[Found]:
    """What each file gives in an engine; one that ends the process is followed by a new one."""
    remaining = list(paths)
    while remaining:
        ours, theirs = Pipe(duplex=False)
        arguments = (theirs, engine, remaining, folder / "output.txt")
        process = get_context("spawn").Process(target=serve, args=arguments)
        process.start()
        theirs.close()  # else its end would not be noticed
        try:
            while remaining:
                yield ours.recv()
                del remaining[0]
        except EOFError:
            process.join()
            yield f"its process ends with code {process.exitcode}"
            del remaining[0]
        process.join()


def row(engine: Engine, graph: Row, found: Found) -> Row:
    """A line of the answer."""
    pytorch, own = (None, None) if isinstance(found, str) else found
    runs = own is not None and own <= TOLERANCES[str(graph["precision"])]
    return {
        "engine": engine.name(),
        **graph,
        "max_difference": pytorch,
        "max_file_difference": own,
        "runs": "yes" if runs else "fails" if own is None else "WRONG",
        "reason": found if isinstance(found, str) else None,
    }


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("weights", nargs="?", type=Path, default=Path(WEIGHTS))
    options = arguments.parse_args()
    missing = [reason for engine in ENGINES if (reason := engine.missing())]
    if missing:
        raise SystemExit(f"benchmarks.engines: {'; '.join(missing)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        files = export(options.weights, Path(folder))
        for engine in ENGINES:
            measured = measure(engine, list(files), Path(folder))
            for graph, found in zip(files.values(), measured, strict=True):
                rows.append(row(engine, graph, found))
    answer(
        "engines",
        rows,
        rounds=f"the golden samples of {len(files)} files of `{options.weights.stem}`",
        packages=("onnx", "numpy"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

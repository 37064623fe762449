"""How many requests a second does a server answer, and how many images the runtime by itself?

    python -m benchmarks.load [--seconds SECONDS]

Clients send one photo each without pauses, over 127.0.0.1 by KServe's V2 protocol, to the servers
of docs/guides/serving.md; 32 clients do so for a minute. The runtime classifies the same photo in
threads of one process. Clients, servers and runtime share the machine's processors. A server whose
program no variable names is left out (`_servers.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks._result import ROOT, Row, answer, parser
from benchmarks._servers import PROGRAMS, Ask, in_binary, in_json, load, mlserver, triton
from nin_edge.checkpoint import Checkpoint
from nin_edge.weights import DEFAULT_WEIGHTS, find_weights
from nin_edge_export import ExportedModel, ExportOptions, export_models
from nin_edge_runtime import Classifier

SECONDS: Final = {1: 5.0, 8: 5.0, 32: 60.0}
"""How long each number of clients asks a server; the runtime as long as the first."""

SERVERS: Final = {"MLServer": mlserver, "Triton": triton}
# MLServer has no binary extension over HTTP, Triton no bytes in JSON.
REQUESTS: Final = {"MLServer": in_json, "Triton": in_binary}


def rows_of(server: str, model: ExportedModel, image: bytes, label: str) -> Iterator[Row]:
    """The rows of a server; none if its program is not named."""
    if not (program := os.environ.get(PROGRAMS[server])):
        print(f"{server} is left out: {PROGRAMS[server]} names no program", file=sys.stderr)
        return
    with (
        TemporaryDirectory() as folder,
        SERVERS[server](program, model, Path(folder) / "server") as (port, path),
    ):
        connected = REQUESTS[server](port, path, image).connected
        for clients, seconds in SECONDS.items():
            yield {"classified_by": server, **load(connected, label, clients, seconds)}


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, help="for each number of clients")
    options = arguments.parse_args()
    if options.seconds:
        SECONDS.update(dict.fromkeys(SECONDS, options.seconds))
    checkpoint = Checkpoint.load(find_weights(DEFAULT_WEIGHTS))
    (model,) = export_models(checkpoint, ExportOptions(precisions=("int8",)))
    image = (ROOT / "examples" / "cat.jpg").read_bytes()
    classify = Classifier(model.data, provider="cpu")
    label = classify(image).label

    @contextmanager
    def inside() -> Iterator[Ask]:
        yield lambda: classify(image).label

    name = "the runtime, in threads"
    rows: list[Row] = [
        {"classified_by": name, **load(inside, label, n, SECONDS[1])} for n in SECONDS
    ]
    for server in SERVERS:
        rows += rows_of(server, model, image, label)
    answer(
        "load",
        rows,
        rounds=", ".join(f"{seconds:g} s for {n} clients" for n, seconds in SECONDS.items()),
        packages=("onnxruntime", "numpy"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

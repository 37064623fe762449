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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks._result import ROOT, Row, answer, parser
from benchmarks._servers import PROGRAMS, Ask, in_binary, in_json, load, mlserver, triton
from nin_edge.checkpoint import Checkpoint
from nin_edge.weights import DEFAULT_WEIGHTS, find_weights
from nin_edge_export import ExportedModel, ExportOptions, export_models
from nin_edge_runtime import Classifier

SECONDS: Final = {1: 10.0, 8: 10.0, 32: 60.0}
"""How long each number of clients asks."""

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
        yield from measured(server, REQUESTS[server](port, path, image).connected, label)


def measured(
    name: str, connected: Callable[[], AbstractContextManager[Ask]], label: str
) -> Iterator[Row]:
    """The rows of one way to ask: for each number of clients."""
    for clients, seconds in SECONDS.items():
        yield {"classified_by": name, **load(connected, label, clients, seconds)}


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

    rows = list(measured("the runtime, in threads", inside, label))
    for server in SERVERS:
        rows += rows_of(server, model, image, label)
    answer(
        "load",
        rows,
        rounds=f"{', '.join(f'{number} clients {s:g} s' for number, s in SECONDS.items())}",
        packages=("onnxruntime", "numpy"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

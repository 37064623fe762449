"""Tables of servers under load and of trainings on several machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks._table import Table

MACHINES: Final[Mapping[str, Table]] = {
    "load": Table(
        "load",
        (
            ("classified by", "{classified_by}"),
            ("clients", "{clients}"),
            ("requests/s", "{requests_per_second:,.0f}"),
            ("median", "{p50_ms:.1f} ms"),
            ("p99", "{p99_ms:.1f} ms"),
            ("requests", "{requests:,}"),
            ("wrong", "{wrong}"),
            ("lost", "{lost}"),
        ),
        explained="The bundled int8 model and `examples/cat.jpg`, one image a request; clients, "
        "server and runtime share the processors.",
    ),
    "machines": Table(
        "machines",
        (
            ("training", "{training}"),
            ("images/s", "{images_per_second:.1f}"),
            ("to one process", "{ratio:.2f}"),
            ("to the ceiling", "{ceiling_ratio:.2f}"),
        ),
        explained="Throughput of all processes; each has one thread, a processor and 16 images of "
        "128 x 128 a step. The ceiling is what two processes reach that know nothing of each "
        "other.",
    ),
}
"""Tables by the name of the block that shows them."""

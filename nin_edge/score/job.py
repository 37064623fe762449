"""The work on one shard, in each engine: its images through the model, its rows into a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from nin_edge.files import write_atomically
from nin_edge.score.shards import Item, Shard
from nin_edge.text import as_utf8, without_name
from nin_edge_runtime import Classifier, ImageError, Prediction

_BATCH: Final = 8  # images of one inference

SCHEMA: Final = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "score": pa.float32(),
        "unknown": pa.bool_(),
        "top_labels": pa.list_(pa.string()),
        "top_scores": pa.list_(pa.float32()),
        "error": pa.string(),
    }
)
"""The columns of the output; `error` is null, or all others but `path` are."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; it can be sent to another process."""

    model: bytes
    """The model file."""
    source: Path
    """The folder that the shards' names are below; absolute."""
    provider: str
    """`auto`, `cpu` or `cuda`."""
    top_k: int
    """Classes to store for an image."""
    min_score: float | None
    """Probability below which a label is unknown; None for never."""
    workers: int
    """Threads that decode and classify side by side."""

    @cached_property
    def classify(self) -> Classifier:
        """The model, loaded where it is needed, with one thread."""
        return Classifier(self.model, provider=self.provider, threads=1, min_score=self.min_score)

    def write(self, shard: Shard, file: Path) -> None:
        """Score a shard, and write its rows; the file appears when it is complete.

        Raises:
            OSError: it cannot be written.
        """
        columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        for item, result in _results(self.classify, shard.items(self.source), self.workers):
            for name, value in _row(item, result, self.source, self.top_k).items():
                columns[name].append(value)
        encoded = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=SCHEMA), encoded)
        write_atomically(file, encoded.getvalue().to_pybytes())


def _results(
    classify: Classifier, items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Prediction | ImageError]]:
    """Each item, in order, with its prediction or error."""
    waiting: deque[Item] = deque()

    def images() -> Iterator[Path | bytes]:
        for item in items:
            waiting.append(item)
            if not isinstance(item.image, ImageError):
                yield item.image

    def errors() -> Iterator[tuple[Item, ImageError]]:
        while waiting and isinstance(error := waiting[0].image, ImageError):
            yield waiting.popleft(), error

    for result in classify.stream(images(), batch_size=_BATCH, workers=workers):
        yield from errors()
        yield waiting.popleft(), result
    yield from errors()


def _row(item: Item, result: Prediction | ImageError, source: Path, top_k: int) -> dict[str, Any]:
    """A row of the output."""
    row = dict.fromkeys(SCHEMA.names) | {"path": as_utf8(item.path)}
    if isinstance(result, ImageError):
        return row | {"error": as_utf8(without_name(result, source / item.path))}
    top = result.top(top_k)
    return row | {
        "label": result.label,
        "score": result.score,
        "unknown": result.unknown,
        "top_labels": [label for label, _ in top],
        "top_scores": [score for _, score in top],
    }

"""Inputs of each kind with the same images, and the output as rows."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nin_edge.score import Summary, score
from nin_edge_runtime.golden import golden_image

COUNT = 23

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JPEGs of several sizes, and in their middle one file that is none; read-only, sorted."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(COUNT):
        path = folder / f"{index:03}.jpg"
        if index == COUNT // 2:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(golden_image(index, 20 + index, 30)).save(path)
    return sorted(folder.iterdir())


@pytest.fixture
def write_parquet(images: Sequence[Path]) -> Callable[..., Path]:
    """Writes the images as a Parquet file: `write_parquet(path, form="bytes")`, or another form."""

    def write(path: Path, form: str = "bytes", **options: Any) -> Path:
        data = [image.read_bytes() for image in images]
        column: Any = {
            "bytes": pa.array(data),
            "large": pa.array(data, pa.large_binary()),
            "hugging face": pa.array([{"bytes": one, "path": "x.jpg"} for one in data]),
        }[form]
        numbers = pa.array(range(len(data)))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": numbers, "image": column}), path, **options)
        return path

    return write


@pytest.fixture
def write_tar(images: Sequence[Path]) -> Callable[..., Path]:
    """Writes the images as a WebDataset's tar, each beside a JSON file."""

    def write(path: Path, mode: str = "w") -> Path:
        note = images[0].parent.parent / "note.json"
        note.write_text("{}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for image in images:
                tar.add(image, image.name)
                tar.add(note, f"{image.stem}.json")
        return path

    return write


@pytest.fixture
def read_rows() -> Callable[[Path], Rows]:
    """All rows of an output, in the order of its files."""

    def read(folder: Path) -> Rows:
        return [
            row
            for path in sorted(folder.glob("*.parquet"))
            for row in pq.read_table(pa.BufferReader(path.read_bytes())).to_pylist()
        ]

    return read


@pytest.fixture
def folder(images: Sequence[Path], tmp_path: Path) -> Path:
    shutil.copytree(images[0].parent, tmp_path / "in" / "inside")
    return tmp_path / "in"


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Callable[..., Summary]:
    """Scores an input to `out` with the tiny model."""

    def call(source: Path, **options: Any) -> Summary:
        settings = {"model": tiny_model, "rows": 5, "top_k": 2} | options
        return score(source, settings.pop("out", tmp_path / "out"), **settings)

    return call

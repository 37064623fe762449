"""How fast does `nin-edge score` label images, by threads and on Ray Data, from each kind of input?

    python -m benchmarks.score IMAGES [--images N] [--rounds N]

IMAGES is a folder of JPEGs, of which the first N are taken: as they are, as one Parquet file, and
as tars of 1,000. Each engine scores each of them in interleaved rounds, beside `Classifier.stream`
over the same files, with as many threads as CPUs; and beside the plain use of Ray Data, an image a
row, from paths. Rates are steady: from the time when each worker has finished a file of the output
to the end. What comes before is the start. CPU time is that of all processes. Every run must give
the same labels. It needs Linux and the package `ray[data]`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._measure import compare
from benchmarks._process_tree import CpuTime
from benchmarks._result import Row, answer, parser
from nin_edge.score import ENGINES
from nin_edge_runtime import Classifier, ImageError
from nin_edge_runtime.folders import find_images
from nin_edge_runtime.threads import usable_threads

IMAGES: Final = 20_000
ROUNDS: Final = 2
ROWS: Final = 500  # images of a file of the output
GROUP: Final = 1000  # of a row group, and of a tar
BATCH: Final = 8  # of an inference, as the engines have it

STREAM: Final = "stream"
PLAIN: Final = "ray, an image a row"
PLAIN_BATCH: Final = 64


@dataclass(frozen=True)
class Run:
    """One measurement."""

    rate: float
    """Images a second, steady."""
    cpu_ms: float
    """CPU time of an image, steady."""
    start_s: float
    """Seconds before and after the steady part, less what its images take."""


def prepare(images: Path, count: int, folder: Path) -> dict[str, Path]:
    """The same images in each kind of input."""
    files = find_images([images])[:count]
    inputs = {name: folder / name for name in ("folder", "parquet", "tar")}
    for path in inputs.values():
        path.mkdir()
    for index, file in enumerate(files):
        shutil.copy(file, inputs["folder"] / f"{index:06}{file.suffix}")
    names = sorted(inputs["folder"].iterdir())
    table = pa.table({"image": [path.read_bytes() for path in names]})
    pq.write_table(table, inputs["parquet"] / "images.parquet", row_group_size=GROUP)
    for start in range(0, len(names), GROUP):
        with tarfile.open(inputs["tar"] / f"{start // GROUP:04}.tar", "w") as tar:
            for path in names[start : start + GROUP]:
                tar.add(path, path.name)
    return inputs


def stream(folder: Path, labels: dict[str, list[str]], runs: list[Run]) -> float:
    """Images a second of `Classifier.stream` over a folder's files."""
    paths = sorted(folder.iterdir())
    classify = Classifier(provider="cpu", threads=1)
    started, used = time.perf_counter(), time.process_time()
    results = classify.stream(paths, batch_size=BATCH, workers=usable_threads())
    found = [result for result in results if not isinstance(result, ImageError)]
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    labels.setdefault("labels", [one.label for one in found])
    runs.append(Run(len(paths) / seconds, 1e3 * cpu / len(paths), 0.0))
    return runs[-1].rate


def engine(name: str, source: Path, labels: dict[str, list[str]], runs: list[Run]) -> float:
    """Images a second of `nin-edge score` in a process of its own, once it has started."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "scores"
        command = [sys.executable, "-m", "nin_edge", "score", source, out]
        options = ["--engine", name, "--provider", "cpu", "--rows", ROWS]
        started = time.time()
        with (
            subprocess.Popen(
                [str(part) for part in (*command, *options)], stdout=subprocess.DEVNULL
            ) as process,
            CpuTime(process.pid) as cpu,
        ):
            code = process.wait()
        seconds = time.time() - started
        if code:
            raise RuntimeError(f"nin-edge score --engine {name} {source}: exit code {code}")
        if pq.read_table(out, columns=["label"])["label"].to_pylist() != labels["labels"]:
            raise RuntimeError(f"{name}, {source.name}: other labels than those of the stream")
        files = sorted(out.glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        times = [path.stat().st_mtime for path in files]
        rows = [pq.read_metadata(path).num_rows for path in files]
    first = usable_threads()
    images = sum(rows[first:])
    begin, end = times[first - 1], times[-1]
    rate = images / (end - begin)
    cpu_ms = 1e3 * cpu.between(begin, end) / images
    runs.append(Run(rate, cpu_ms, seconds - sum(rows) / rate))
    return rate


class _Plain:
    """An actor of the plain use of Ray Data."""

    def __init__(self) -> None:
        self._classify = Classifier(provider="cpu", threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        paths = [Path(path) for path in batch["path"]]
        found = list(self._classify.stream(paths, batch_size=BATCH))
        labels = [one.label for one in found if not isinstance(one, ImageError)]
        return {"label": labels, "time": [time.time()] * len(labels)}


def step(folder: Path) -> dict[str, list[Any]]:
    """The labels of a folder's files by the plain use of Ray Data, and when each was there."""
    from nin_edge.score.ray_engine import ray_on_loopback

    with ray_on_loopback(usable_threads()):
        from ray.data import ActorPoolStrategy, from_items

        rows = from_items([{"path": str(path)} for path in sorted(folder.iterdir())]).map_batches(
            *(_Plain,),
            batch_size=PLAIN_BATCH,
            compute=ActorPoolStrategy(size=usable_threads()),
            num_cpus=1,
        )
        found = list(rows.iter_rows())
    return {name: [row[name] for row in found] for name in ("label", "time")}


def plain(folder: Path, labels: dict[str, list[str]], runs: list[Run]) -> float:
    """Images a second of the plain use of Ray Data, once it has started."""
    started = time.time()
    command = [sys.executable, "-m", "benchmarks.score", "--step", str(folder)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        CpuTime(process.pid) as cpu,
    ):
        printed, _ = process.communicate()
    seconds = time.time() - started
    found = json.loads(printed.splitlines()[-1])
    if sorted(found["label"]) != sorted(labels["labels"]):  # in the order of the blocks
        raise RuntimeError("the plain use of Ray Data: other labels than those of the stream")
    times = sorted(found["time"])
    first = ROWS * usable_threads()
    rate = (len(times) - first) / (times[-1] - times[first])
    cpu_ms = 1e3 * cpu.between(times[first], times[-1]) / (len(times) - first)
    runs.append(Run(rate, cpu_ms, seconds - len(times) / rate))
    return rate


def table(
    ratios: dict[str, float], runs: dict[str, list[Run]], images: int, image_bytes: float
) -> Sequence[Row]:
    """The rows of the answer; ratios are those of rates to the stream's."""
    return [
        {
            "engine": name.rpartition(" ")[0],
            "input": name.rpartition(" ")[2],
            "images": images,
            "image_bytes": image_bytes,
            "workers": usable_threads(),
            "images_per_second": statistics.median(run.rate for run in runs[name]),
            "ratio": ratio,
            "cpu_ms": statistics.median(run.cpu_ms for run in runs[name]),
            "start_s": statistics.median(run.start_s for run in runs[name]),
        }
        for name, ratio in ratios.items()
    ]


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path, metavar="IMAGES")
    arguments.add_argument("--images", type=int, default=IMAGES)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    options = arguments.parse_args()
    runs: dict[str, list[Run]] = defaultdict(list)
    labels: dict[str, list[str]] = {}
    with TemporaryDirectory() as folder:
        inputs = prepare(options.folder, options.images, Path(folder))
        baseline = f"{STREAM} folder"
        candidates = {baseline: partial(stream, inputs["folder"], labels, runs[baseline])}
        for source in inputs:
            for name in ENGINES:
                key = f"{name} {source}"
                candidates[key] = partial(engine, name, inputs[source], labels, runs[key])
        key = f"{PLAIN} folder"
        candidates[key] = partial(plain, inputs["folder"], labels, runs[key])
        rates = compare(candidates, options.rounds, warm_up=0)
        sizes = [path.stat().st_size for path in inputs["folder"].iterdir()]
    count, mean = len(sizes), sum(sizes) / len(sizes)
    answer(
        "score",
        table({name: rate.ratio for name, rate in rates.items()}, runs, count, mean),
        rounds=f"{options.rounds} interleaved rounds of {count:,} images, {usable_threads()} "
        "workers, the default model",
        packages=("onnxruntime", "pillow", "pyarrow", "ray"),
        output=options.output,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        print(json.dumps(step(Path(sys.argv[2]))))
    else:
        main()

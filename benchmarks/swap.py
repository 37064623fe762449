"""What does it cost to replace a model while threads use it, and is every answer right?

    python -m benchmarks.swap [--swaps N]

Threads classify one image after the other, without pauses, while the file is replaced by that of
another network and loaded again (docs/guides/serving.md). Each answer must be one of the two
files', with all its probabilities, and that of the file in use where it did not change meanwhile.
"""

from __future__ import annotations

import copy
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from benchmarks._result import Row, answer, parser
from nin_edge.checkpoint import Checkpoint
from nin_edge.files import write_atomically
from nin_edge.weights import WEIGHTS
from nin_edge_export import ExportOptions, export_models
from nin_edge_runtime import Classifier, Prediction
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.verify import replay

NETWORKS: Final = ("nin-cifar10-quarter", "nin-cifar10-half")
THREADS: Final = 8
SWAPS: Final = 1000
QUIET_SECONDS: Final = 10.0


class Load:
    """Threads that classify, and check every answer."""

    def __init__(self, path: Path, versions: list[bytes]) -> None:
        """Start with the first version, which is at the path."""
        self.path, self.versions = path, versions
        self.pictures = [golden_image(seed, 32, 32) for seed in range(8)]
        self.expected = [
            Classifier(data, provider="cpu", threads=1).batch(self.pictures) for data in versions
        ]
        self.classify = Classifier(path, provider="cpu", threads=1)
        self.begun = self.done = 0

    def swap(self) -> float:
        """Replace the file, load it and use it; the seconds that takes."""
        started = time.perf_counter()
        write_atomically(self.path, self.versions[(self.done + 1) % 2])
        self.begun += 1
        fresh = copy.copy(self.classify)
        replay(fresh)
        self.classify = fresh
        self.done += 1
        return time.perf_counter() - started

    def row(self, name: str, swaps: int) -> Row:
        """Latency and checks under load, with so many swaps; without any, for `QUIET_SECONDS`."""
        stop = threading.Event()
        times: list[list[float]] = [[] for _ in range(THREADS)]
        right, errors = [0] * THREADS, list[Exception]()

        def work(number: int) -> None:
            try:
                while not stop.is_set():
                    picture, before = len(times[number]) % len(self.pictures), self.done
                    started = time.perf_counter()
                    found = self.classify(self.pictures[picture])
                    times[number].append(time.perf_counter() - started)
                    possible = {before % 2} if self.begun == before else {0, 1}
                    expected = [self.expected[version][picture] for version in possible]
                    right[number] += any(same(found, one) for one in expected)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        took = [self.swap() for _ in range(swaps)]
        if not swaps:
            time.sleep(QUIET_SECONDS)
        stop.set()
        for thread in threads:
            thread.join()
        every = np.concatenate([np.array(own) for own in times])
        return {
            "phase": name,
            "swaps": swaps,
            "answers": len(every),
            "wrong": len(every) - sum(right),
            "errors": len(errors),
            "p50_ms": 1e3 * float(np.percentile(every, 50)),
            "p99_ms": 1e3 * float(np.percentile(every, 99)),
            "swap_ms": 1e3 * float(np.median(took)) if took else None,
        }


def same(one: Prediction, other: Prediction) -> bool:
    """Whether two predictions have the same label and the same probabilities."""
    return one.label == other.label and np.array_equal(one.probabilities, other.probabilities)


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("--swaps", type=int, default=SWAPS)
    options = arguments.parse_args()
    int8 = ExportOptions(precisions=("int8",))
    checkpoints = [Checkpoint.load(WEIGHTS[name]) for name in NETWORKS]
    versions = [export_models(checkpoint, int8)[0].data for checkpoint in checkpoints]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(versions[0])
        load = Load(path, versions)
        rows = [load.row("no swaps", 0), load.row("swapping", options.swaps)]
    answer(
        "swap",
        rows,
        rounds=f"{THREADS} threads, {QUIET_SECONDS:g} s, then {options.swaps:,} swaps",
        packages=("onnxruntime", "numpy"),
        output=options.output,
    )


if __name__ == "__main__":
    main()

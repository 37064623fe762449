"""How fast and how accurate are the networks in ONNX Runtime, and in other engines?

    python -m benchmarks.peers DATA [WEIGHTS...] [--rounds 10] [--images 1024]

in an environment of its own:

    python3 -m venv build/peers
    build/peers/bin/pip install torch==2.13.0
    build/peers/bin/pip install -r benchmarks/peers-requirements.txt

DATA is the archive that the weights were trained on; without WEIGHTS, all that ship for CIFAR-10
are measured.
Engines get the same weights and the same normalised images, and return probabilities. Each has a
process of its own for each number of threads; the processes take turns. An engine whose package is
missing, or that cannot run the network, has a row without figures and its reason. The first run
also compiles, which takes some minutes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks._measure import CIFAR_WEIGHTS
from benchmarks._peer_process import serve
from benchmarks._peers import CALLS, OURS, PEERS, REFERENCE, Case, Peer, Run
from benchmarks._result import Row, answer, parser
from nin_edge_runtime.bench import interleave, median_ratio
from nin_edge_runtime.threads import usable_threads

ROUNDS, IMAGES, CALIBRATION = 10, 1024, 512
THREADS: Final = {"one": 1, "all": usable_threads()}
COLUMNS: Final = tuple((threads, batch) for threads in THREADS for batch in CALLS)
"""What a row has times of."""

Key: TypeAlias = tuple[Peer, str, int]  # peer, key of THREADS, batch size


class PeerError(RuntimeError):
    """An engine that gives no figures; the message is the reason."""


class Process:
    """A process that has taken a step of an engine (`_peer_process.serve`)."""

    def __init__(self, case: Case, threads: int, step: Callable[[], Run | None]) -> None:
        self._connection, theirs = Pipe()
        arguments = (theirs, case, threads, step)
        self._process = get_context("spawn").Process(target=serve, args=arguments)
        self._process.start()
        theirs.close()  # else its end would not be noticed
        try:
            self._receive()
        except PeerError:
            self.__exit__()
            raise

    def _receive(self) -> Any:
        try:
            worked, value = self._connection.recv()
        except EOFError:
            self._process.join()
            raise PeerError(f"its process ended with code {self._process.exitcode}") from None
        if not worked:
            raise PeerError(value)
        return value

    def ask(self, batch: int | None) -> Any:
        """Seconds of a call with that batch size; for None, probabilities of the test images."""
        self._connection.send(batch)
        return self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()


def make_case(weights: Path, data: Path, images: int, folder: Path) -> tuple[Case, NDArray[Any]]:
    """Export the weights without preprocessing, and save the images.

    Returns:
        The case, and the class of each of its test images.
    """
    from nin_edge.checkpoint import Checkpoint
    from nin_edge.data import open_dataset
    from nin_edge.weights import find_weights

    command = [sys.executable, "-m", "nin_edge", "export", str(weights), "--embed-preprocess=none"]
    precisions = ("fp32", "int8")
    command += [f"--precision={precision}" for precision in precisions]
    subprocess.run([*command, f"--output={folder}"], check=True, stdout=subprocess.DEVNULL)
    for precision in precisions:
        (path,) = folder.glob(f"*.{precision}.onnx")
        path.rename(folder / f"{precision}.onnx")
    checkpoint = find_weights(weights)
    steps = Checkpoint.load(checkpoint).preprocessing
    dataset = open_dataset(data, size=steps.size, channels=steps.channels)
    random = np.random.default_rng(0)
    chosen = {"calibration": (dataset.train, CALIBRATION), "test": (dataset.test, images)}
    for split, (indices, count) in chosen.items():
        indices = np.sort(random.permutation(indices)[:count])
        np.save(folder / f"{split}.npy", steps.normalize(dataset.images[indices]))
    return Case(checkpoint, folder), dataset.targets[indices]


def missing(peer: Peer) -> str:
    """The reason if a package of the engine is not installed, else nothing."""
    for package in peer.packages:
        try:
            version(package)
        except PackageNotFoundError:
            return f"{package} is not installed"
    return ""


def start(
    case: Case, peers: Sequence[Peer], stack: ExitStack
) -> tuple[dict[tuple[Peer, str], Process], dict[Peer, str]]:
    """Convert and load the network in every engine, as many at a time as there are CPUs.

    Returns:
        A process for each engine and number of threads, and the reasons of the other engines.
    """
    reasons = {peer: reason for peer in peers if (reason := missing(peer))}
    processes = {}

    def take(peer: Peer, threads: int, step: Callable[[], Run | None]) -> Process | None:
        try:
            return Process(case, threads, step)
        except PeerError as error:
            reasons.setdefault(peer, str(error))
            return None

    with ThreadPoolExecutor(usable_threads()) as pool:
        prepared = [
            pool.submit(take, peer, 1, partial(peer.prepare, case))
            for peer in peers
            if peer not in reasons and peer.prepare
        ]
        for done in prepared:
            if process := done.result():
                process.__exit__()
        loaded = {
            (peer, name): pool.submit(take, peer, threads, partial(peer.load, case, threads))
            for name, threads in THREADS.items()
            for peer in peers
            if peer not in reasons
        }
        for key, future in loaded.items():
            if process := future.result():
                processes[key] = stack.enter_context(process)
    return processes, reasons


def measure(
    weights: str, case: Case, targets: NDArray[Any], peers: Sequence[Peer], rounds: int
) -> list[Row]:
    """A row for each engine; PyTorch and ours must be among them."""
    with ExitStack() as stack:
        processes, reasons = start(case, peers, stack)
        probabilities = {
            peer: process.ask(None) for (peer, name), process in processes.items() if name == "all"
        }
        turns = {
            (peer, threads, batch): partial(process.ask, batch)
            for (peer, threads), process in processes.items()
            for batch in CALLS
        }
        seconds = interleave(turns, lambda done: done < rounds)
    (reference,) = (found for peer, found in probabilities.items() if peer.name == REFERENCE)
    ours = {peer.precision: peer for peer in peers if peer.name == OURS}
    rows = []
    for peer in peers:
        figures: dict[str, Any] = {"test_error": None, "top1_agreement": None}
        figures |= {
            f"{threads}_{batch}_{unit}": None
            for threads, batch in COLUMNS
            for unit in ("ms", "ratio")
        }
        if peer not in reasons:
            top = probabilities[peer].argmax(axis=1)
            figures["test_error"] = float((top != targets).mean())
            figures["top1_agreement"] = float((top == reference.argmax(axis=1)).mean())
            base = ours["int8" if peer.precision == "int8" else "fp32"]
            figures |= times(seconds, peer, base)
        rows.append(
            {"weights": weights, "engine": peer.name, "precision": peer.precision}
            | {"test_images": len(targets)}
            | figures
            | {"reason": reasons.get(peer)}
        )
    return rows


def times(seconds: Mapping[Key, Sequence[float]], peer: Peer, base: Peer) -> dict[str, float]:
    """An engine's milliseconds an image, and its ratios to another's times."""
    figures = {}
    for threads, batch in COLUMNS:
        own, others = (seconds[key, threads, batch] for key in (peer, base))
        figures[f"{threads}_{batch}_ms"] = 1e3 * statistics.median(own) / batch
        figures[f"{threads}_{batch}_ratio"] = median_ratio(own, others)
    return figures


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("weights", nargs="*", default=list(CIFAR_WEIGHTS))
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--images", type=int, default=IMAGES, help="test images to score")
    options = arguments.parse_args()
    rows: list[Row] = []
    for weights in options.weights:
        with tempfile.TemporaryDirectory() as folder:
            case, targets = make_case(Path(weights), options.data, options.images, Path(folder))
            rows += measure(Path(weights).stem, case, targets, PEERS, options.rounds)
    needed = dict.fromkeys(name for peer in PEERS if not missing(peer) for name in peer.packages)
    answer(
        "peers",
        rows,
        rounds=f"{options.rounds} rounds",
        packages=("torch", "numpy", *needed),
        notes=notes(rows),
        output=options.output,
    )


def notes(rows: Sequence[Row]) -> list[str]:
    """A sentence for each reason."""
    reasons = dict.fromkeys(
        f"{row['engine']}, {row['precision']}: not measured, {row['reason']}."
        for row in rows
        if row["reason"]
    )
    return list(reasons)


if __name__ == "__main__":
    main()

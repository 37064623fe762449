"""The process in which an engine of `benchmarks.peers` runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import numpy as np

from benchmarks._measure import timed
from benchmarks._peers import CALLS, Array, Case, Run


def serve(connection: Connection, case: Case, threads: int, step: Callable[[], Run | None]) -> None:
    """Take a step in this process, and time or score the network that it loads when asked to.

    Requests are batch sizes, whose answer is the mean seconds of a call, or None, whose answer is
    the probabilities of the test images. Answers are pairs: whether it worked, and the value or
    the reason. The first one answers the step.

    Args:
        connection: to the process that asks; the end of it is the end of this one.
        case: the network.
        threads: for libraries that only read the environment.
        step: prepares, or loads the network.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    output = os.open(case.folder / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    try:
        run = step()
        if run is not None:
            images = case.images("test")
            for batch in CALLS:  # compiles, allocates
                run(np.resize(images, (batch, *images.shape[1:])))
    except Exception as error:  # whatever an engine raises is the reason why it has no figures
        told = (str(error).strip() or "no message").splitlines()[0]
        connection.send((False, f"{type(error).__name__}: {told}"))
        return
    connection.send((True, None))
    if run is None:
        return
    while True:
        try:
            batch = connection.recv()
        except EOFError:
            return
        connection.send((True, _seconds(run, images, batch) if batch else _score(run, images)))


def _seconds(run: Run, images: Array, batch: int) -> float:
    part = np.resize(images, (batch, *images.shape[1:]))
    run(part)  # others have used the caches meanwhile
    return timed(partial(run, part), CALLS[batch])()


def _score(run: Run, images: Array) -> Array:
    batch = max(CALLS)
    shape = (batch, *images.shape[1:])
    parts = (
        run(np.resize(images[start : start + batch], shape))
        for start in range(0, len(images), batch)
    )
    return np.concatenate(list(parts))[: len(images)]

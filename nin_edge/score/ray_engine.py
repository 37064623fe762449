"""Scoring on Ray Data: a pool of processes, each of which takes a shard after the other.

A shard is read, decoded, classified and written by one process, so no image passes through Ray's
object store: Ray carries the shards' names there, and back what failed. Each process has one
classifier of one thread; it reads ahead in another, which waits for the disk most of the time.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nin_edge.score.job import Job
from nin_edge.score.shards import Shard, from_text, to_text
from nin_edge_runtime import MissingDependencyError, NinEdgeError
from nin_edge_runtime.threads import usable_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TRIES: Final = 3  # of a shard whose process died: an image may be what kills it
_BLOCKS: Final = 10_000  # most tasks; each costs Ray milliseconds
_STORE: Final = 200 << 20  # bytes of the object store, which has names alone

_logger = logging.getLogger(__name__)

# Read when Ray is imported, and by the processes that it starts. Nothing is sent anywhere, and no
# other machine or user can reach them: on all addresses, Ray runs what it is sent.
_SETTINGS: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback addresses alone, on Linux, too
    "RAY_AUTH_MODE": "token",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@dataclass
class _Worker:
    """A process of the pool."""

    job: Job

    def __post_init__(self) -> None:
        """Load the model."""
        self.job.classify  # noqa: B018

    def __call__(self, batch: dict[str, NDArray[np.object_]]) -> dict[str, list[str]]:
        """Score one shard, if its file is not there, and say what stops the run, or only it."""
        file, stop, died = Path(batch["file"][0]), "", ""
        # Ray repeats the task of a process that died, for ever: these are counted in a file.
        tries = file.with_name(f".nin-edge-{file.name}.tries.part")
        try:
            if not file.exists():
                count = tries.stat().st_size if tries.exists() else 0
                if count < _TRIES:
                    with tries.open("ab") as counter:
                        counter.write(b".")
                    self.job.write(from_text(batch["shard"][0]), file)
                else:
                    died = (
                        f"{file}: not made, the process that scored its images died {count} times"
                    )
                tries.unlink(missing_ok=True)
        except OSError as error:
            stop = f"{error.filename or file}: {error.strerror or error}"
        return {"stop": [stop], "died": [died]}


def run_on_ray(job: Job, work: list[tuple[Shard, Path]]) -> None:
    """Score shards in a Ray of this process's own, which ends with it.

    Raises:
        NinEdgeError: a file cannot be written, or processes died again and again; all other files
            are there in this last case.
    """
    workers = min(usable_threads(), len(work))
    with ray_on_loopback(workers) as ray:
        from ray.data import ActorPoolStrategy, DataContext, from_items

        _quieten(DataContext.get_current())
        rows = [{"shard": to_text(shard), "file": os.fspath(file)} for shard, file in work]
        done = from_items(rows, override_num_blocks=min(len(rows), _BLOCKS)).map_batches(
            _Worker,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ActorPoolStrategy(size=workers),
            num_cpus=1,
        )
        died = []
        try:
            for row in done.iter_rows():
                if row["stop"]:
                    raise NinEdgeError(row["stop"])
                if row["died"]:
                    died.append(row["died"])
        except ray.exceptions.RayError as error:
            raise NinEdgeError(f"Ray failed: {_first_line(error)}") from error
    if died:
        more = f"; {len(died) - 1:,} more files, too" if len(died) > 1 else ""
        raise NinEdgeError(f"{died[0]}{more}")


def import_ray() -> Any:
    """Ray, which reads its settings when it is imported.

    Raises:
        MissingDependencyError: it is not installed.
    """
    os.environ.update(_SETTINGS)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once
    try:
        import ray
        import ray.data  # needs more packages
    except ImportError as error:
        raise MissingDependencyError(
            "--engine ray needs Ray, which is not installed: pip install 'ray[data]' tqdm"
        ) from error
    return ray


@contextmanager
def ray_on_loopback(cpus: int) -> Iterator[Any]:
    """Ray on this machine, without a dashboard; its files are in a folder that is removed."""
    ray = import_ray()
    ending = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in ending}
    # As Ray itself chooses: names of sockets in deeper folders would be too long.
    top = "/tmp" if Path("/tmp").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir=top, ignore_cleanup_errors=True) as folder,
        redirect_stdout(sys.stderr),  # results alone go to the first; Ray's notes do, too
    ):
        try:
            _start(ray, cpus, folder)
            for number, handler in handlers.items():  # Ray takes SIGTERM
                signal.signal(number, handler)
            yield ray
        finally:
            ray.shutdown()


def _start(ray: Any, cpus: int, folder: str) -> None:
    """Start Ray's processes.

    Raises:
        NinEdgeError: they do not start.
    """
    try:
        with _silent():
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
    except Exception as error:
        raise NinEdgeError(f"Ray did not start: {_first_line(error)}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Hides what native code prints: Ray's says which level of logging was set."""
    sys.stderr.flush()
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


def _quieten(context: Any) -> None:
    """Show Ray's progress on a terminal, and no more than that."""
    context.enable_progress_bars = sys.stderr.isatty()
    context.use_ray_tqdm = False  # it draws through the workers' logs, which are not shown
    verbose = _logger.isEnabledFor(logging.INFO)
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)


def _first_line(error: Exception) -> str:
    """The first line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)

"""Several processes that train one network: those of `torchrun`, on one machine or on more.

Each computes its share of every batch and DistributedDataParallel averages the gradients, so that
all take the same steps. What depends on a clock, a signal or a file is decided for all at once.
A single process is a team of one, for which nothing here costs anything.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor, distributed, nn

from nin_edge_runtime import NinEdgeError, ProviderError

_TIMEOUT: Final = timedelta(hours=2)  # the others wait while one decodes the images


class TeamError(NinEdgeError, RuntimeError):
    """The processes do not fit together, or one of them has ended."""


@dataclass(frozen=True)
class Team:
    """This process among those that train together."""

    rank: int = 0
    """Its number, from 0; process 0 leads: it scores, writes and prints."""
    size: int = 1
    """Number of processes."""

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients that are averaged over the team."""
        if self.size == 1:
            return network
        # By default, every step replaces the others' running statistics by the leader's.
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def averaging(self, network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """In which a step's parts run forward and back: the last one averages all gradients.

        Args:
            network: as `wrap` gave it.
            last: whether no other of this step follows.
        """
        if last or not isinstance(network, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return network.no_sync()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the team of a tensor of one shape."""
        if self.size == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total / self.size

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the mean of each tensor, in place."""
        if self.size > 1:
            for tensor in tensors:
                tensor.copy_(self.mean(tensor))

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag that any process raised."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX)
        return tuple(map(bool, raised.tolist()))

    def tell(self, value: float) -> float:
        """The leader's value."""
        if self.size == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return told.item()

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Make sure that all processes have the same values.

        Args:
            values: what JSON can carry, by its name.

        Raises:
            TeamError: they differ; the message names which, and the processes that differ from
                process 0.
        """
        if self.size == 1:
            return
        digests = [hashlib.sha256(json.dumps(value).encode()).digest() for value in values.values()]
        mine = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(found, mine)
        rows = torch.stack(found).view(self.size, len(values), -1)  # (processes, values, 32)
        different = (rows != rows[0]).any(-1)
        for place, name in enumerate(values):
            if ranks := different[:, place].nonzero().flatten().tolist():
                who = ", ".join(map(str, ranks))
                raise TeamError(
                    f"process {who} has other {name} than process 0: expected the same for all"
                )

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Let one process of each machine enter before its others, which find its files."""
        first = self.size == 1 or os.environ["LOCAL_RANK"] == "0"
        if not first:
            self.agree(True)  # a barrier, but on the CPU
        yield
        if first:
            self.agree(True)


def launched() -> bool:
    """Whether `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(device: str) -> Iterator[tuple[Team, torch.device]]:
    """Meet the other processes that `torchrun` started, if it did, and leave them at the end.

    Args:
        device: `cpu` or `cuda`.

    Yields:
        The team, and this process's own device: its GPU is that of its number on the machine.

    Raises:
        ProviderError: the machine has fewer GPUs than processes.
        TeamError: another process ended, or did not answer in time, while this one waited for it.
    """
    if not launched():
        yield Team(), torch.device(device)
        return
    own = torch.device(device)
    if own.type == "cuda":
        processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes > gpus:  # for all of them, or those with a GPU would wait for the others
            raise ProviderError(
                f"{processes} processes on this machine, which has {gpus} GPUs: expected one for "
                f"each, torchrun --nproc-per-node {gpus}, or --device cpu"
            )
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    # DistributedDataParallel imports this module, whose functions have group=group.WORLD as a
    # default: imported once the group exists, they would keep it.
    import_module("torch.distributed.nn")
    # Flags and digests lie in the CPU's memory, weights on the device.
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    group = [distributed.group.WORLD]
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size()), own
    except RuntimeError as error:
        text = str(error).lower()
        if isinstance(error, NinEdgeError) or not ("gloo" in text or "nccl" in text):
            raise
        late = "timed out" in text or "timeout" in text
        hours = _TIMEOUT.total_seconds() / 3600
        what = f"has not answered for {hours:g} hours" if late else "ended"
        raise TeamError(f"another process of the training {what} ({error})") from error
    finally:
        distributed.destroy_process_group()
        atexit.register(_end_threads, group)


def _end_threads(group: list[Any]) -> None:
    """Let the group go, and with it gloo's threads.

    A thread that frees a tensor while Python shuts down aborts the process, so they have to end
    before. They do with the last reference to the group, which has to be the one in this list:
    Python drops it without its lock. DistributedDataParallel would hold the lock and wait for the
    threads, which may be waiting for it. So networks go first, and what holds one.
    """
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        setattr(sys, name, None)  # an uncaught exception, with its frames
    gc.collect()
    group.clear()

"""The processes that train one network together, as `torchrun` starts them.

Each process computes its share of every batch. DistributedDataParallel averages the gradients, so
that all take the same steps. What depends on a clock, a signal or a file is decided for all of them
at once. For a single process nothing here has a cost.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, Final, Self

import torch
from torch import Tensor, distributed, nn

from nin_edge.training.errors import WorkersError
from nin_edge_runtime import NinEdgeError, ProviderError
from nin_edge_runtime.model_file.strict_json import shortened

# A lost machine closes no connection: only a timeout ends the wait for it.
_TIMEOUT: Final = timedelta(minutes=10)  # between two exchanges of a step; torch's own for NCCL
_WORK_TIMEOUT: Final = timedelta(hours=2)  # while one process decodes, searches or scores for all


@dataclass(frozen=True)
class Workers:
    """The processes of a training, and which of them this one is."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    groups: Sequence[Any] = ()
    """Process groups: for steps, and to wait in while one process works for all."""

    @classmethod
    def from_environment(cls) -> Self:
        """The processes that `torchrun` started; a single one without it."""
        if not launched():
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    @property
    def is_main(self) -> bool:
        """Whether this process scores, writes and reports for all: process 0."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients that are averaged over the processes."""
        if self.size == 1:
            return network
        # With broadcast buffers, each step would replace the others' batch statistics by process
        # 0's. The newest releases of torch have another name for the option, and say so.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def gradient_sync(self, network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Context for one micro-batch; gradients are averaged in the last one of a step.

        Args:
            network: a network from `wrap`.
            last: whether this is the step's last micro-batch.
        """
        if last or not isinstance(network, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return network.no_sync()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.size == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total / self.size

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Set each tensor to its mean over the processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                tensor.copy_(self.mean(tensor))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process has it set."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX)
        return tuple(map(bool, raised.tolist()))

    def broadcast(self, value: float) -> float:
        """The value of process 0, which may work for hours before it has it."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(tensor, 0, self.groups[1])
        return tensor.item()

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Check that all processes have the same values.

        Args:
            values: values that JSON can represent, by name.

        Raises:
            WorkersError: they differ; the message names the value and the processes that differ
                from process 0.
        """
        if self.size == 1:
            return
        digests = [hashlib.sha256(json.dumps(value).encode()).digest() for value in values.values()]
        own = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8)
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(gathered, own)
        rows = torch.stack(gathered).view(self.size, len(values), -1)  # (processes, values, 32)
        different = (rows != rows[0]).any(-1)
        for index, name in enumerate(values):
            if ranks := different[:, index].nonzero().flatten().tolist():
                raise WorkersError(
                    f"process {', '.join(map(str, ranks))} has other {name} than process 0: "
                    "expected the same for all"
                )

    @contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """Let one process of each machine enter before the others, which find its files."""
        first = self.size == 1 or os.environ["LOCAL_RANK"] == "0"
        if not first:
            self._wait()
        yield
        if first:
            self._wait()

    def _wait(self) -> None:
        if self.size > 1:
            distributed.barrier(self.groups[1])


def launched() -> bool:
    """Whether `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Workers, torch.device]]:
    """Join the other processes that `torchrun` started, if it did, and leave them at the end.

    Args:
        device: device to compute on.

    Yields:
        The processes, and this one's own device. Its GPU has its number on the machine.

    Raises:
        ProviderError: the machine has fewer GPUs than processes.
        WorkersError: another process ended or did not answer in time while this one waited for it;
            or torchrun could not restart the processes.
    """
    if not launched():
        yield Workers(), device
        return
    _check_restarts()
    if device.type == "cuda":
        device = _own_gpu()
    # DistributedDataParallel imports this module, whose functions have group=group.WORLD as a
    # default: imported once the group exists, they would keep it.
    import_module("torch.distributed.nn")
    # Flags and digests lie in the CPU's memory, weights on the device.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    groups: list[Any] = []
    try:
        distributed.init_process_group(backend, timeout=_TIMEOUT)
        groups.append(distributed.group.WORLD)
        groups.append(distributed.new_group(backend="gloo", timeout=_WORK_TIMEOUT))
        yield Workers(distributed.get_rank(), distributed.get_world_size(), groups), device
    except RuntimeError as error:
        if isinstance(error, NinEdgeError) or not (fate := _fate(error)):
            raise
        raise WorkersError(f"another process of the training {fate}") from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        atexit.register(_end_threads, groups)


def _fate(error: RuntimeError) -> str | None:
    """What an error says of another process; None if it is of another kind."""
    text = " ".join(str(error).split())
    if not isinstance(error, distributed.DistError) and not re.search("(?i)gloo|nccl", text):
        return None
    if waited := re.search(r"(?i)timed out.*?(\d+) ?ms", text):
        return f"has not answered for {float(waited[1]) / 1000:g} seconds"
    # Without gloo's source lines, and its advice.
    reason = re.sub(r"\[/.*?\] ", "", text).partition(". This is typically")[0]
    timed_out = re.search("(?i)timed out|timeout", reason)
    return f"{'has not answered in time' if timed_out else 'ended'} ({shortened(reason)})"


def _check_restarts() -> None:
    """Refuse restarts where the processes would find the addresses of those before them.

    All rounds share one store of torch's agents, in which addresses stay.
    """
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise WorkersError(
            "torchrun cannot restart processes with the store that it shares with them: set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, on every machine, or leave out "
            "--max-restarts"
        )


def _own_gpu() -> torch.device:
    """The GPU with this process's number on the machine."""
    processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > gpus:  # an error in all of them: those with a GPU would wait for the others
        raise ProviderError(
            f"{processes} processes on this machine, which has {gpus} GPUs: expected one for "
            f"each, torchrun --nproc-per-node {gpus}, or --device cpu"
        )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def _end_threads(groups: list[Any]) -> None:
    """Release the process groups, and with them gloo's threads.

    A thread that frees a tensor while Python shuts down aborts the process, so they have to end
    before. They end with the last reference to a group. That must be the one in this list, which
    Python drops without holding the group's lock. DistributedDataParallel would hold the lock and
    wait for the threads, which may be waiting for it. So networks, and what refers to them, go
    first.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # torchrun's, after another process's error
        signal.signal(number, signal.SIG_IGN)
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        setattr(sys, name, None)  # an uncaught exception, with its frames
    gc.collect()
    groups.clear()

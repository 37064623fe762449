"""Several machines on this one: network namespaces, each with a cable to a switch.

Each namespace has interfaces, addresses and routes of its own, so its processes reach others
through the cable alone, by TCP as between machines. Needs root (CAP_NET_ADMIN) and iproute2.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

_KILL_SECONDS: Final = 5.0
_RENDEZVOUS_PORT: Final = 29400

ENVIRONMENT: Final = {"GLOO_SOCKET_IFNAME": "eth0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""What torchrun needs on these machines: the cable's interface, and a store for each restart."""


def refusal() -> str | None:
    """Why there can be no namespaces here; None if there can."""
    if shutil.which("ip") is None:
        return "no network namespaces: ip (iproute2) is not installed"
    name = f"ne{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces (needs CAP_NET_ADMIN): {made.stderr.strip()}"
    _ip("netns", "del", name)
    return None


class Machines:
    """Namespaces with one cable each; all their processes are killed at the end."""

    def __init__(self, count: int) -> None:
        """Choose names that no other process has."""
        self._switch = f"ne{os.getpid()}s"
        self.names = [f"ne{os.getpid()}m{number}" for number in range(count)]
        """Namespaces of the machines."""
        self.addresses = [f"10.77.0.{number + 1}" for number in range(count)]
        """Addresses of the machines."""

    def __enter__(self) -> Self:
        """Make them."""
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove them."""
        self._remove()

    def plug(self, number: int, state: str = "up") -> None:
        """Plug a machine's cable into the switch, or pull it out (`state="down"`)."""
        subprocess.run(self.plug_command(number, state), check=True)

    def plug_command(self, number: int, state: str) -> list[str]:
        """The command of `plug`; processes of the machines may run it, too."""
        return ["ip", "-n", self._switch, "link", "set", f"port{number}", state]

    def torchrun(self, number: int, count: int, *arguments: str) -> list[str]:
        """The command that starts one process of a training on a machine.

        Args:
            number: the machine.
            count: the first so many machines train together.
            arguments: further options of torchrun, then the script and its arguments.
        """
        return [
            *("ip", "netns", "exec", self.names[number]),
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", str(count), "--nproc-per-node", "1"),
            *("--rdzv-backend", "c10d", "--rdzv-id", "training"),
            *("--rdzv-endpoint", f"{self.addresses[0]}:{_RENDEZVOUS_PORT}"),
            # Hosts of their own would know this by their names.
            *("--rdzv-conf", f"is_host={int(number == 0)}"),
            *("--local-addr", self.addresses[number]),
            *arguments,
        ]

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        for number, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            port = f"port{number}"
            _ip("netns", "add", name)
            _ip(
                *("link", "add", "eth0", "netns", name, "type", "veth"),
                *("peer", "name", port, "netns", self._switch),
            )
            _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for name in self.names:
            deadline = time.monotonic() + _KILL_SECONDS
            while (processes := _processes(name)) and time.monotonic() < deadline:
                for process in processes:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                time.sleep(0.05)
        for name in (*self.names, self._switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _processes(name: str) -> Sequence[int]:
    listed = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
    )
    return [int(text) for text in listed.stdout.split()]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)

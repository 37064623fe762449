"""How many threads help one inference here: what the process may use, not what the machine has."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

from nin_edge_runtime.errors import NinEdgeError

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


def usable_threads() -> int:
    """Threads that help: `NIN_EDGE_THREADS`, or the CPUs that affinity and cgroup quota leave.

    Raises:
        NinEdgeError: `NIN_EDGE_THREADS` is not a whole number above 0.
    """
    return thread_budget()[0]


def thread_budget() -> tuple[int, str]:
    """`usable_threads`, and what decided on the number, in words.

    Raises:
        NinEdgeError: `NIN_EDGE_THREADS` is not a whole number above 0.
    """
    if asked := os.environ.get("NIN_EDGE_THREADS"):
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 4 and 0 < int(asked) <= 1024):
            raise NinEdgeError(f"NIN_EDGE_THREADS is {asked!r}: expected a whole number, 1 to 1024")
        return int(asked), "NIN_EDGE_THREADS"
    allowed, quota = allowed_cpus(), cgroup_quota()
    if quota is not None and int(quota + 0.5) < allowed:
        return max(1, int(quota + 0.5)), "cgroup quota"
    return allowed, "CPU affinity" if allowed < (os.cpu_count() or 1) else "number of CPUs"


def allowed_cpus() -> int:
    """Logical CPUs that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cgroup_quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float | None:
    """CPUs' worth of time that this process's cgroup may use, None if not limited.

    A container finds its quota at the root of what it sees, a service of systemd in a folder of its
    own. The folders above limit it as well.

    Args:
        cgroups: where the cgroup file systems are mounted.
        own: the kernel's list of the process's cgroups.
    """
    places = {"": "/", "cpu": "/"}  # by controller; version 2 of cgroups names none
    try:
        for line in own.read_text("utf-8", "replace").splitlines():
            _, controllers, place = line.split(":", 2)
            places |= {name: place for name in controllers.split(",") if name in places}
    except (OSError, ValueError):
        pass
    quotas = []
    for read, top, place in (
        (_quota_2, cgroups, places[""]),
        (_quota_1, cgroups / "cpu", places["cpu"]),
    ):
        folder = PurePosixPath(place.strip("/"))
        if ".." in folder.parts:  # moved here from outside of the container
            folder = PurePosixPath()
        # Also up to the root: a container may be told the host's path, which it cannot see.
        for each in (folder, *folder.parents):
            try:
                quotas.append(read(top / each))
            except (OSError, ValueError, ZeroDivisionError):
                continue
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text("ascii").split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
    return quota / int((folder / "cpu.cfs_period_us").read_text("ascii")) if quota > 0 else None

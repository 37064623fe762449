"""How many threads help one inference here: the CPUs this process may use, not all CPUs."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

from nin_edge_runtime.errors import NinEdgeError

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


def usable_threads() -> int:
    """Threads that help: `NIN_EDGE_THREADS`, or the CPUs that affinity and cgroup quota allow.

    Raises:
        NinEdgeError: `NIN_EDGE_THREADS` is not a whole number from 1 to 1024.
    """
    return thread_budget()[0]


def thread_budget() -> tuple[int, str]:
    """`usable_threads`, and the name of the limit that determined it.

    Raises:
        NinEdgeError: `NIN_EDGE_THREADS` is not a whole number from 1 to 1024.
    """
    if asked := os.environ.get("NIN_EDGE_THREADS"):
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 4 and 0 < int(asked) <= 1024):
            raise NinEdgeError(f"NIN_EDGE_THREADS is {asked!r}: expected a whole number, 1 to 1024")
        return int(asked), "NIN_EDGE_THREADS"
    allowed, quota = allowed_cpus(), cgroup_quota()
    if quota is not None and int(quota + 0.5) < allowed:
        return max(1, int(quota + 0.5)), "cgroup quota"
    return allowed, "CPU affinity" if allowed < machine_cpus() else "number of CPUs"


def machine_cpus() -> int:
    """Logical CPUs of the machine."""
    return os.cpu_count() or 1


def allowed_cpus() -> int:
    """Logical CPUs that this process may run on (its CPU affinity)."""
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    return len(affinity(0)) if affinity else machine_cpus()


def cgroup_quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float | None:
    """CPU time that this process's cgroup may use, in CPUs; None if it is not limited.

    A container sees its own cgroup as the root; a systemd service has a folder below the root. The
    quotas of parent cgroups apply as well.

    Args:
        cgroups: where the cgroup file systems are mounted.
        own: the kernel's list of the process's cgroups.
    """
    paths = {"": "/", "cpu": "/"}  # by controller; cgroup version 2 names none
    try:
        for line in own.read_text("utf-8", "replace").splitlines():
            _, controllers, path = line.split(":", 2)
            paths |= {name: path for name in controllers.split(",") if name in paths}
    except (OSError, ValueError):
        pass
    quotas = []
    for read, mount, path in (
        (_read_quota_v2, cgroups, paths[""]),
        (_read_quota_v1, cgroups / "cpu", paths["cpu"]),
    ):
        own_folder = PurePosixPath(path.strip("/"))
        if ".." in own_folder.parts:  # the process was moved here from outside the container
            own_folder = PurePosixPath()
        # Up to the root: a container may be given the host's path, which does not exist inside it.
        for folder in (own_folder, *own_folder.parents):
            try:
                quotas.append(read(mount / folder))
            except (OSError, ValueError, ZeroDivisionError):
                continue
    return min((quota for quota in quotas if quota is not None), default=None)


def _read_quota_v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text("ascii").split()
    return None if quota == "max" else int(quota) / int(period)


def _read_quota_v1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
    return quota / int((folder / "cpu.cfs_period_us").read_text("ascii")) if quota > 0 else None

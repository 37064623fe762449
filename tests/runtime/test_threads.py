from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nin_edge_runtime import NinEdgeError, threads
from nin_edge_runtime.threads import cgroup_quota, thread_budget, usable_threads


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIN_EDGE_THREADS", raising=False)


class TestUsable:
    @pytest.mark.parametrize("asked", ["1", "3", "1024"])
    def test_the_variable_decides(self, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
        monkeypatch.setenv("NIN_EDGE_THREADS", asked)
        assert usable_threads() == int(asked)

    @pytest.mark.parametrize(
        "asked", ["0", "-1", "two", "1.5", " 2", "1025", "\u0662", "9" * 30, "9" * 5000]
    )
    def test_a_bad_variable_is_refused_by_name(
        self, monkeypatch: pytest.MonkeyPatch, asked: str
    ) -> None:
        monkeypatch.setenv("NIN_EDGE_THREADS", asked)
        with pytest.raises(NinEdgeError, match="NIN_EDGE_THREADS"):
            usable_threads()

    def test_an_empty_variable_counts_as_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = usable_threads()
        monkeypatch.setenv("NIN_EDGE_THREADS", "")
        assert usable_threads() == expected >= 1

    @pytest.mark.parametrize(
        ("allowed", "quota", "expected"),
        [
            (8, None, (8, "number of CPUs")),
            (4, None, (4, "CPU affinity")),
            (8, 2.0, (2, "cgroup quota")),
            (8, 1.5, (2, "cgroup quota")),
            (8, 2.4, (2, "cgroup quota")),
            (8, 0.1, (1, "cgroup quota")),
            (2, 4.0, (2, "CPU affinity")),
            (2, 2.0, (2, "CPU affinity")),
        ],
    )
    def test_affinity_and_quota_bound_them(
        self,
        monkeypatch: pytest.MonkeyPatch,
        allowed: int,
        quota: float | None,
        expected: tuple[int, str],
    ) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
        monkeypatch.setattr(threads, "cgroup_quota", lambda: quota)
        assert thread_budget() == expected
        assert usable_threads() == expected[0]

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
    def test_a_process_bound_to_one_cpu_uses_one_thread(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        script = (
            "import os\n"
            "from nin_edge_runtime.threads import usable_threads\n"
            "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            "print(usable_threads())\n"
        )
        done = run_python(script)
        assert done.stdout == "1\n", done.stderr


class TestQuota:
    @staticmethod
    def write(folder: Path, files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", "ascii")
        return folder

    @pytest.mark.parametrize(
        ("own", "files", "expected"),
        [
            ("0::/", {"cpu.max": "max 100000"}, None),
            ("0::/", {"cpu.max": "150000 100000"}, 1.5),
            # A service of systemd with CPUQuota; the root of a host has no such file.
            ("0::/system.slice/a.service", {"system.slice/a.service/cpu.max": "50000 100000"}, 0.5),
            (
                "0::/system.slice/a.service",
                {
                    "system.slice/a.service/cpu.max": "max 100000",
                    "system.slice/cpu.max": "200000 100000",
                },
                2.0,
            ),
            (
                "0::/a/b",
                {"a/b/cpu.max": "300000 100000", "a/cpu.max": "100000 100000"},
                1.0,
            ),
            # A container that is told the host's path and sees its own group at the root.
            ("0::/docker/0123", {"cpu.max": "200000 100000"}, 2.0),
            ("0::/../elsewhere", {"cpu.max": "200000 100000"}, 2.0),
            # Version 1.
            (
                "4:cpu,cpuacct:/\n1:name=systemd:/",
                {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
                None,
            ),
            (
                "4:cpuacct,cpu:/a/b\n3:memory:/c",
                {
                    "cpu/cpu.cfs_quota_us": "-1",
                    "cpu/cpu.cfs_period_us": "100000",
                    "cpu/a/cpu.cfs_quota_us": "250000",
                    "cpu/a/cpu.cfs_period_us": "100000",
                },
                2.5,
            ),
            # Nonsense is no limit.
            ("", {"cpu.max": "max"}, None),
            ("0:/", {"cpu.max": "1 0"}, None),
            ("0::/", {"cpu.max": "many 100000", "cpu/cpu.cfs_quota_us": "x"}, None),
        ],
    )
    def test_of_the_own_group_and_those_above_is_found(
        self, tmp_path: Path, own: str, files: dict[str, str], expected: float | None
    ) -> None:
        groups = self.write(tmp_path / "cgroup", files)
        self.write(tmp_path, {"own": own})
        assert cgroup_quota(groups, tmp_path / "own") == expected

    def test_without_cgroups_there_is_none(self, tmp_path: Path) -> None:
        assert cgroup_quota(tmp_path / "none", tmp_path / "nothing") is None

    def test_where_the_own_group_cannot_be_read_the_root_counts(self, tmp_path: Path) -> None:
        groups = self.write(tmp_path / "cgroup", {"cpu.max": "100000 100000"})
        assert cgroup_quota(groups, tmp_path / "nothing") == 1.0

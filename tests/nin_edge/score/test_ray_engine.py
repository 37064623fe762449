"""Scoring on a real Ray: the rows, what listens, killed processes, an interrupt.

Skipped where Ray is not installed: `pip install -c constraints.txt -e ".[ray]"`. Each test starts a
Ray, which takes some seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nin_edge.score import score
from nin_edge.score.output import MANIFEST
from nin_edge_runtime.golden import golden_image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not find_spec("ray"), reason="Ray is not installed: pip install 'ray[data]'"
    ),
]

PATIENCE = 120.0  # seconds; a busy machine starts Ray slowly

Reader = Callable[[Path], list[dict[str, Any]]]

# A process dies by SIGKILL at each image of this name.
DEADLY = """
import os, signal
from nin_edge_runtime import Classifier

inner = Classifier._load

def load(self, image, *, bgr):
    if str(image).endswith("deadly.jpg"):
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, image, bgr=bgr)

Classifier._load = load
"""


@contextmanager
def started(*arguments: object, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """`nin-edge score ... --engine ray` in a process and a session of its own."""
    command = [sys.executable, "-m", "nin_edge", "score", *map(str, arguments), "--engine", "ray"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def family(process: int) -> list[int]:
    """A process and all that it started and they did."""
    with suppress(OSError):
        tasks = Path(f"/proc/{process}/task").iterdir()
        children = " ".join((task / "children").read_text() for task in tasks).split()
        return [process, *(each for child in children for each in family(int(child)))]
    return []


def workers(process: int) -> list[int]:
    """The processes of the pool that are at work."""
    found = []
    for number in family(process):
        with suppress(OSError):
            if "ray::MapWorker" in Path(f"/proc/{number}/cmdline").read_text():
                found.append(number)
    return found


def listening(processes: Sequence[int]) -> list[str]:
    """The local addresses on which some processes listen, in the kernel's hexadecimal form."""
    sockets = set()
    for number in processes:
        with suppress(OSError):
            for file in Path(f"/proc/{number}/fd").iterdir():
                with suppress(OSError):
                    sockets.add(str(file.readlink()))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [
        line[1].partition(":")[0]
        for line in lines
        if line[3] == "0A" and f"socket:[{line[9]}]" in sockets
    ]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Some hundred images, several seconds of work for one process with the default model."""
    folder = tmp_path / "many"
    folder.mkdir()
    picture = Image.fromarray(golden_image(0, 64, 64))
    for index in range(400):
        picture.save(folder / f"{index:04}.jpg")
    return folder


def test_rows_are_those_of_the_local_engine(
    images: Sequence[Path], read_rows: Reader, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(images[0].parent, tmp_path / "in")
    shutil.copy(images[0], os.fsencode(tmp_path / "in") + b"/\xff.jpg")
    score(tmp_path / "in", tmp_path / "local", model=tiny_model, rows=4)
    options = ("--model", tiny_model, "--rows", 4)
    before = set(Path("/tmp").glob("ray-*"))
    with started(tmp_path / "in", tmp_path / "ray", *options) as process:
        addresses: list[str] = []
        while process.poll() is None:
            addresses += listening(family(process.pid))
            time.sleep(0.2)
        code, out, err = ended(process)
    assert (code, err) == (1, "1 of 24 images could not be read: column error\n")
    assert out == f"24 images in 6 files: {tmp_path / 'ray'}\n"
    assert read_rows(tmp_path / "ray") == read_rows(tmp_path / "local")
    # Ray runs what it is sent: it must not listen on other addresses than 127.0.0.1.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert set(addresses) <= loopback
    assert addresses
    assert set(Path("/tmp").glob("ray-*")) <= before
    assert {path.name for path in (tmp_path / "ray").iterdir()} == {
        *(f"part-00000{index}.parquet" for index in range(6)),
        *(".nin-edge", MANIFEST),
    }


def test_other_inputs_on_ray(
    write_tar: Callable[[Path], Path],
    write_parquet: Callable[..., Path],
    read_rows: Reader,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    good = write_parquet(tmp_path / "in" / "a.parquet", "hugging face").read_bytes()
    (tmp_path / "in" / "torn.parquet").write_bytes(good[:-10])
    tar = write_tar(tmp_path / "t.tar")
    for source, count in ((tmp_path / "in", 24), (tar, 23)):
        local, ray = (tmp_path / f"{source.name} {name}" for name in ("local", "ray"))
        score(source, local, model=tiny_model, rows=4)
        with started(source, ray, "--model", tiny_model, "--rows", 4) as process:
            assert ended(process)[0] == 1
        assert read_rows(ray) == read_rows(local)
        assert len(read_rows(ray)) == count


def test_a_killed_process_is_started_again_and_nothing_is_lost(
    many: Path, read_rows: Reader, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with started(many, out, "--rows", 50) as process:
        while process.poll() is None and not list(out.glob("*.parquet")):
            time.sleep(0.05)
        (victim, *_) = workers(process.pid)
        os.kill(victim, signal.SIGKILL)
        code, stdout, err = ended(process)
    assert code == 0, err
    assert stdout == f"400 images in 8 files: {out}\n"
    assert [row["path"] for row in read_rows(out)] == [path.name for path in sorted(many.iterdir())]


def test_an_image_that_kills_its_process_each_time_is_named_and_the_others_are_scored(
    images: Sequence[Path], read_rows: Reader, tiny_model: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(images[0].parent, source)
    shutil.copy(images[0], source / "002-deadly.jpg")
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    with started(*(source, out, "--model", tiny_model, "--rows", 4), env=environment) as process:
        code, stdout, err = ended(process)
    assert (code, stdout) == (1, "")
    lost = out / "part-000000.parquet"
    (error,) = (line for line in err.splitlines() if line.startswith("Error: "))
    expected = f"{lost}: not made, the process that scored its images died 3 times"
    assert error == f"Error: {expected}"
    assert len(list(out.glob("*.parquet"))) == 5
    assert len(read_rows(out)) == 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_signal_ends_ray_too_and_complete_files_stay(
    many: Path, read_rows: Reader, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    with started(many, out, "--rows", 25) as process:
        while process.poll() is None and not list(out.glob("*.parquet")):
            time.sleep(0.05)
        all_processes = family(process.pid)
        process.send_signal(number)
        found, stdout, err = ended(process)
    assert (found, stdout) == (code, ""), err
    assert "interrupted" in err.splitlines()
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{each}").exists() for each in all_processes[1:]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with started(many, out, "--rows", 25) as process:
        found, stdout, err = ended(process)
    assert found == 0, err
    assert "were there before" in stdout
    assert len(read_rows(out)) == 400

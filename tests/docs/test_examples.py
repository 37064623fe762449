"""The examples as a user runs them, on real files: once each as a process, else in this one."""

from __future__ import annotations

import ast
import json
import queue
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge_runtime import Classifier

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))

PATIENCE = 60.0
"""Seconds that an answer may take on a busy machine."""
LINES = 75
"""Most lines of an example, blank ones and its description included."""

Call = Callable[..., subprocess.CompletedProcess[str]]


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Like `run`, in this process: the imports of another one take longer than the example."""

    def call(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        script = str(EXAMPLES / f"{name}.py")
        command = [script, *map(str, arguments)]
        monkeypatch.setattr("sys.argv", command)
        code = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            code = 1
            sys.stderr.write(f"{ended.code}\n")
        return subprocess.CompletedProcess(command, code, *capsys.readouterr())

    return call


@contextmanager
def running(
    name: str, *arguments: object
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A script that goes on, and a function that waits for its next line."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests in the background of a shell would pass on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        lines: queue.Queue[str] = queue.Queue()
        assert process.stdout is not None

        def read(stdout: Any = process.stdout) -> None:
            for line in stdout:
                lines.put(line)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield process, lambda: lines.get(timeout=PATIENCE)
        finally:
            process.kill()
            reader.join()


@pytest.fixture(scope="module")
def clip(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of two scenes, ten frames each: the demo photo, and a grey wall."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = tmp_path_factory.mktemp("videos") / "clip.avi"
    cat = cv2.resize(cv2.imread(str(photo))[:, 75:375], (160, 160))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 160))
    for frame in [cat] * 10 + [np.full_like(cat, 128)] * 10:
        writer.write(frame)
    writer.release()
    return path


class TestFolderWatcher:
    def test_once_labels_what_is_there(self, photo: Path, tmp_path: Path) -> None:
        shutil.copy(photo, tmp_path / "b cat.JPG")
        shutil.copy(photo, tmp_path / "a.jpg")
        (tmp_path / "broken.png").write_bytes(b"no image")
        (tmp_path / "notes.txt").write_text("no image")
        (tmp_path / ".hidden.jpg").write_bytes(b"no image")
        done = run("folder_watcher", tmp_path, "--once")
        assert (done.returncode, done.stderr) == (0, "")
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        names = [Path(answer["image"]).name for answer in answers]
        assert names == ["a.jpg", "b cat.JPG", "broken.png"]
        expected = Classifier(provider="cpu")(photo)
        for answer in answers[:2]:
            assert answer["label"] == expected.label == "cat"
            assert answer["score"] == pytest.approx(expected.score, abs=1e-3)
        assert answers[2]["error"].endswith("not an image in a format that Pillow reads")

    def test_new_half_written_and_replaced_images_are_labelled(
        self, photo: Path, tmp_path: Path, tiny_model: Path
    ) -> None:
        data = photo.read_bytes()
        (tmp_path / "first.jpg").write_bytes(data)
        arguments = (tmp_path, "--model", tiny_model, "--every", 0.05, "--tries", 10**6)
        with running("folder_watcher", *arguments) as (process, next_line):
            assert json.loads(next_line())["image"].endswith("first.jpg")
            with (tmp_path / "slow.jpg").open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                time.sleep(0.5)  # several looks at the half of it
                (tmp_path / "between.jpg").write_bytes(data)
                assert json.loads(next_line())["image"].endswith("between.jpg")
                file.write(data[len(data) // 2 :])
            answer = json.loads(next_line())
            assert answer["image"].endswith("slow.jpg")
            assert "label" in answer
            (tmp_path / "first.jpg").write_bytes(data + b"\0")
            assert json.loads(next_line())["image"].endswith("first.jpg")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            assert process.stderr is not None
            assert process.stderr.read() == ""

    def test_image_that_stays_unreadable_is_reported_once(
        self, photo: Path, tmp_path: Path, tiny_model: Path
    ) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        arguments = (tmp_path, "--model", tiny_model, "--every", 0.02, "--tries", 3)
        with running("folder_watcher", *arguments) as (_, next_line):
            answer = json.loads(next_line())
            assert answer["image"].endswith("broken.jpg")
            assert "error" in answer
            time.sleep(0.3)
            shutil.copy(photo, tmp_path / "cat.jpg")
            assert json.loads(next_line())["image"].endswith("cat.jpg")

    def test_missing_folder_and_model_are_one_line(self, tmp_path: Path, call: Call) -> None:
        done = call("folder_watcher", tmp_path / "missing")
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
        done = call("folder_watcher", tmp_path, "--model", tmp_path / "missing.onnx")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1


class TestCameraLoop:
    def test_clip_prints_a_line_for_each_change(self, clip: Path) -> None:
        done = run("camera_loop", clip)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first.split()[:3] == ["0.00", "s", "cat"]
        assert second.split()[:2] == ["1.00", "s"]
        assert second.split()[2] != "cat"
        assert all(line.endswith("frames/s") for line in (first, second))
        assert done.stderr.startswith("20 frames, ")

    def test_every_and_min_score_are_used(self, clip: Path, call: Call) -> None:
        done = call("camera_loop", clip, "--every", 5, "--min-score", 1)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.split()[:3] == ["0.00", "s", "unknown"]
        assert "4 frames, " in done.stderr

    def test_problems_are_one_line(
        self,
        clip: Path,
        tmp_path: Path,
        call: Call,
    ) -> None:
        for arguments in ([tmp_path / "missing.avi"], ["98"], [clip, "--every", "0"]):
            done = call("camera_loop", *arguments)
            assert done.returncode == 1
            assert done.stdout == ""
            assert done.stderr.splitlines()[-1].startswith("error: ")
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_examples_are_short_and_need_nothing_but_the_runtime(script: Path) -> None:
    text = script.read_text("utf-8")
    assert len(text.splitlines()) <= LINES
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"nin_edge_runtime"}

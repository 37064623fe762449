"""Frames of video files, whole and damaged, and of URLs; test_camera.py has the cameras."""

from __future__ import annotations

import http.server
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nin_edge_runtime import Classifier, ImageError, MissingDependencyError, NinEdgeError, video
from nin_edge_runtime.video import frames

COUNT, RATE = 40, 5
"""Frames of the clip, and how many of them make a second."""
STEP = 6
"""A frame is of one grey, its index times this: more than compression changes."""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cv2() -> Any:
    return pytest.importorskip("cv2", reason="OpenCV is not installed")


@pytest.fixture(scope="session")
def clip(cv2: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose frames show their index."""
    path = tmp_path_factory.mktemp("videos") / "étoile clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (64, 48))
    assert writer.isOpened()
    noise = np.random.default_rng(0).integers(0, STEP, (48, 64, 3), dtype=np.uint8)
    for index in range(COUNT):
        writer.write(noise + np.uint8(STEP * index))
    writer.release()
    return path


def shown(pixels: np.ndarray) -> int:
    """The index that a frame shows."""
    return round((pixels.mean() - STEP / 2) / STEP)


def grey(index: int) -> np.ndarray:
    """A frame that shows its index modulo `COUNT`, without noise."""
    return np.full((48, 64, 3), STEP * (index % COUNT) + STEP // 2, np.uint8)


def chunks(data: bytes) -> list[tuple[int, int]]:
    """Start and stop of each frame's pixels in an AVI file."""
    starts = [found.start() + 8 for found in re.finditer(b"00dc", data[data.index(b"movi") :])]
    base = data.index(b"movi")
    sizes = [int.from_bytes(data[base + at - 4 : base + at], "little") for at in starts[:COUNT]]
    return [(base + at, base + at + size) for at, size in zip(starts, sizes, strict=False)]


class TestFile:
    def test_all_frames_come_in_their_order(self, clip: Path) -> None:
        found = list(frames(clip))
        assert [frame.index for frame in found] == list(range(COUNT))
        assert [shown(frame.pixels) for frame in found] == list(range(COUNT))
        assert [frame.seconds for frame in found] == pytest.approx(np.arange(COUNT) / RATE)
        assert {(frame.pixels.shape, frame.pixels.dtype.name) for frame in found} == {
            ((48, 64, 3), "uint8")
        }

    @pytest.mark.parametrize("every", [1, 2, 7, COUNT - 1, COUNT, 1000])
    def test_each_nth_frame_comes_from_the_first_one_on(self, clip: Path, every: int) -> None:
        found = list(frames(str(clip), every=every))
        assert [frame.index for frame in found] == list(range(0, COUNT, every))
        assert [shown(frame.pixels) for frame in found] == list(range(0, COUNT, every))
        assert [frame.seconds * RATE for frame in found] == pytest.approx(range(0, COUNT, every))

    def test_slow_caller_gets_every_frame(self, clip: Path) -> None:
        found = []
        for frame in frames(clip, every=4):
            time.sleep(0.02)
            found.append(shown(frame.pixels))
        assert found == list(range(0, COUNT, 4))

    def test_frames_do_not_change_later(self, clip: Path) -> None:
        reader = frames(clip)
        first = next(reader)
        kept = first.pixels.copy()
        list(reader)
        assert np.array_equal(first.pixels, kept)

    def test_colours_are_blue_green_red(self, cv2: Any, tmp_path: Path) -> None:
        path = tmp_path / "red.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (64, 48))
        writer.write(np.full((48, 64, 3), (0, 0, 250), np.uint8))
        writer.release()
        (frame,) = frames(path)
        blue, green, red = frame.pixels.mean((0, 1))
        assert red > 200 > 50 > max(blue, green)

    def test_classifier_takes_frames(self, clip: Path, classify: Classifier) -> None:
        pixels = [frame.pixels for frame in frames(clip, every=10)]
        expected = [classify(one[:, :, ::-1]).label for one in pixels]
        answers = classify.stream((f.pixels for f in frames(clip, every=10)), bgr=True)
        assert [answer.label for answer in answers] == expected

    def test_closing_the_generator_closes_the_file(
        self, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        captures = []
        real = video._open
        monkeypatch.setattr(
            video, "_open", lambda *given: captures.append(real(*given)) or captures[-1]
        )
        with closing(frames(clip)) as reader:
            next(reader)
            assert captures[0].isOpened()
        assert not captures[0].isOpened()
        list(frames(clip))
        assert not captures[1].isOpened()

    def test_portrait_videos_of_a_phone_are_upright(self, cv2: Any, tmp_path: Path) -> None:
        path = tmp_path / "phone.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (64, 48))
        stored = np.zeros((48, 64, 3), np.uint8)
        stored[:, :32] = 250  # the left half
        writer.write(stored)
        writer.release()
        data = path.read_bytes()
        level = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
        turned = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
        at = data.index(level, data.index(b"tkhd"))
        path.write_bytes(data[:at] + turned + data[at + len(level) :])
        (frame,) = frames(path)
        assert frame.pixels.shape == (64, 48, 3)
        assert frame.pixels[:24].mean() > 200 > 50 > frame.pixels[40:].mean()


@pytest.mark.exhaustive
class TestDamagedFile:
    def test_damaged_frames_are_left_out_and_the_rest_keeps_its_place(
        self, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = bytearray(clip.read_bytes())
        damaged = [5, 6, 7, 20]
        for start, stop in [chunks(bytes(data))[index] for index in damaged]:
            data[start:stop] = bytes(stop - start)
        path = tmp_path / "damaged.avi"
        path.write_bytes(data)
        found = list(frames(path))
        assert [frame.index for frame in found] == [i for i in range(COUNT) if i not in damaged]
        assert [shown(frame.pixels) for frame in found] == [frame.index for frame in found]
        assert [record.message for record in caplog.records] == [
            f"{path}: skipped 4 damaged frames"
        ]

    def test_truncated_file_gives_its_frames_and_a_warning(
        self, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = clip.read_bytes()
        path = tmp_path / "truncated.avi"
        path.write_bytes(data[: chunks(data)[25][0]])
        found = list(frames(path, every=2))
        assert [frame.index for frame in found] == list(range(0, 25, 2))
        assert [record.message for record in caplog.records] == [
            f"{path}: ends after 25 of the {COUNT} frames it announces"
        ]

    def test_whole_file_gives_no_warning(
        self, clip: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            list(frames(clip, every=3))
        assert not caplog.records

    def test_every_cut_gives_frames_or_an_error(self, clip: Path, tmp_path: Path) -> None:
        data, path = clip.read_bytes(), tmp_path / "cut.avi"
        refused = []
        for cut in np.linspace(1, len(data), 50).astype(int):
            path.write_bytes(data[:cut])
            try:
                found = [shown(frame.pixels) for frame in frames(path)]
            except ImageError as error:
                refused.append(str(error))
            else:
                assert found
                assert found[:-1] == list(range(len(found) - 1))  # the last one may be half there
        assert 0 < len(refused) < 50
        assert all(message.startswith(f"{path}: ") for message in refused)

    def test_no_frame_that_can_be_decoded_is_an_error(self, clip: Path, tmp_path: Path) -> None:
        data = bytearray(clip.read_bytes())
        for start, stop in chunks(bytes(data)):
            data[start:stop] = bytes(stop - start)
        path = tmp_path / "black.avi"
        path.write_bytes(data)
        with pytest.raises(ImageError, match=r"black\.avi: (no frame of it|cannot be opened)"):
            list(frames(path))


class TestUrl:
    @pytest.fixture
    def server(self, cv2: Any, clip: Path) -> Iterator[str]:
        """A network camera at /live, of 100 frames, 50 a second, and the clip at /clip.avi."""
        pictures = [cv2.imencode(".jpg", grey(index))[1].tobytes() for index in range(COUNT)]

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(200)
                if self.path == "/clip.avi":
                    self.send_header("Content-Length", str(clip.stat().st_size))
                    self.end_headers()
                    self.wfile.write(clip.read_bytes())
                    return
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                try:
                    for index in range(100):
                        data = pictures[index % COUNT]
                        head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}"
                        self.wfile.write(head.encode() + b"\r\n\r\n" + data + b"\r\n")
                        time.sleep(0.02)
                except OSError:  # the reader has left
                    pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()

    def test_network_camera_gives_new_frames_and_an_error_at_its_end(self, server: str) -> None:
        found = []
        with pytest.raises(ImageError, match="/live: gives no more frames"):  # noqa: PT012
            for frame in frames(f"{server}/live"):
                assert shown(frame.pixels) == frame.index % COUNT
                found.append(frame.index)
                time.sleep(0.25)
        assert 2 <= len(found) <= 50  # of 100
        assert (np.diff(found) > 0).all()

    def test_video_at_a_url_is_read_like_a_file(self, server: str) -> None:
        found = list(frames(f"{server}/clip.avi"))
        assert [shown(frame.pixels) for frame in found] == list(range(COUNT))

    def test_password_is_not_in_the_message(self, cv2: Any) -> None:
        with pytest.raises(ImageError, match=r"^rtsp://\*\*\*@127\.0\.0\.1:9/x: cannot be opened"):
            next(frames("rtsp://me:secret@127.0.0.1:9/x"))


class TestErrors:
    @pytest.mark.parametrize("every", [0, -1])
    def test_every_out_of_its_range_is_a_value_error(self, every: int) -> None:
        with pytest.raises(ValueError, match=f"every is {every}: .* at least 1") as caught:
            frames(0, every=every)
        assert not isinstance(caught.value, NinEdgeError)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("missing.avi", "missing.avi: no such file"),
            (Path("0"), "0: no such file"),
            (".", ".: a folder, expected a video file"),
            ("x\0y", r"x\x00y: "),
            ("x" * 5000, "x" * 900),
            ("bad\udce9.avi", r"bad\udce9.avi: not in UTF-8"),
            (-1, "camera -1: expected an index of 0 to 99"),
            (100, "camera 100: expected an index of 0 to 99"),
            ("99999999999", "camera 99999999999: expected an index of 0 to 99"),
            ("9" * 5000, "camera 9999"),
        ],
    )
    def test_impossible_sources_are_refused_at_the_call(
        self, source: str | Path | int, message: str
    ) -> None:
        with pytest.raises(ImageError) as caught:
            frames(source)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 2500

    @pytest.mark.parametrize("data", [b"", b"hello" * 100, b"RIFF\0\0\0\0AVI LIST" + bytes(500)])
    def test_what_is_no_video_is_refused(self, cv2: Any, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "junk.avi"
        path.write_bytes(data)
        with pytest.raises(ImageError, match=r"junk\.avi: cannot be opened, expected a video"):
            next(frames(path))

    def test_missing_camera_is_named(self, cv2: Any) -> None:
        with pytest.raises(ImageError, match=r"^camera 98: cannot be opened"):
            next(frames(98))

    def test_missing_opencv_names_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cv2", None)
        (tmp_path / "clip.avi").write_bytes(b"x")
        for source in (0, tmp_path / "clip.avi"):
            with pytest.raises(
                MissingDependencyError,
                match=r"^OpenCV is not installed: pip install opencv-python-headless$",
            ):
                next(frames(source))

    def test_opencv_that_does_not_load_gives_the_reason(
        self, tmp_path: Path, run_python: Run
    ) -> None:
        (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: no such file\\n')")
        done = run_python(
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from nin_edge_runtime.video import frames\n"
            "next(frames(0))",
            tmp_path,
        )
        assert done.stderr.splitlines()[-1].endswith(
            "OpenCV cannot be loaded (libGL.so.1: no such file): pip install opencv-python-headless"
        )


class TestNativeLines:
    SCRIPT = """
import os, sys
os.environ.update(dict(pair.split("=") for pair in sys.argv[2:]))
before = os.environ.get("OPENCV_FFMPEG_LOGLEVEL")
from nin_edge_runtime.video import frames
assert "cv2" not in sys.modules
for source in (98, sys.argv[1]):
    try:
        list(frames(source))
    except ValueError as error:
        print(error)
assert os.environ.get("OPENCV_FFMPEG_LOGLEVEL") == before
"""

    @pytest.fixture
    def damaged(self, clip: Path, tmp_path: Path) -> Path:
        data = bytearray(clip.read_bytes())
        start, stop = chunks(bytes(data))[3]
        data[start:stop] = bytes(stop - start)
        path = tmp_path / "damaged.avi"
        path.write_bytes(data)
        return path

    def test_opencv_and_ffmpeg_are_quiet(self, run_python: Run, damaged: Path) -> None:
        done = run_python(self.SCRIPT, damaged)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("camera 98: cannot be opened")
        assert done.stderr == f"{damaged}: skipped 1 damaged frame\n"  # our own, logged

    def test_native_lines_appear_on_request(self, run_python: Run, damaged: Path) -> None:
        wanted = ("OPENCV_LOG_LEVEL=WARNING", "OPENCV_FFMPEG_LOGLEVEL=16")
        done = run_python(self.SCRIPT, damaged, *wanted)
        assert done.returncode == 0, done.stderr
        assert "can't open camera by index" in done.stderr
        assert "No JPEG data found" in done.stdout + done.stderr  # releases differ


def test_importing_the_runtime_imports_no_opencv(run_python: Run) -> None:
    done = run_python("import sys, nin_edge_runtime.video; print('cv2' in sys.modules)")
    assert done.stdout.strip() == "False"
    assert os.environ.get("OPENCV_FFMPEG_LOGLEVEL") is None

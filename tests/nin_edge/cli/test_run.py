"""`nin-edge run` beyond a photo's label (test_cli.py): heatmaps, videos, many images."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge.cli import main
from nin_edge_runtime import Classifier
from nin_edge_runtime.golden import golden_image

FRAMES = 7


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    for name, seed in (("a.png", 1), ("b.jpg", 2), ("inside/a.png", 3)):
        Image.fromarray(golden_image(seed, 60, 80)).save(folder / name)
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for seed in range(FRAMES):
        writer.write(np.ascontiguousarray(golden_image(seed, 48, 64)[:, :, ::-1]))
    writer.release()
    return path


# --- several images -------------------------------------------------------------------------------


def test_many_images_get_the_answers_of_single_ones(tmp_path: Path, tiny_model: Path) -> None:
    paths = [tmp_path / f"{seed:02}.png" for seed in range(30)]
    for seed, path in enumerate(paths):
        Image.fromarray(golden_image(seed, 40 + seed, 50)).save(path)
    paths[7].write_text("no image")
    result = _run(tmp_path, "--model", tiny_model, "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["image"] for answer in answers] == [str(path) for path in paths]
    classify = Classifier(tiny_model, provider="cpu", threads=1)
    for path, answer in zip(paths, answers, strict=True):
        if path is paths[7]:
            assert "not an image" in answer["error"]
        else:
            assert answer["score"] == pytest.approx(classify(path).score, abs=1e-5)
            assert answer["label"] == classify(path).label
    assert result.exit_code == 1


def test_progress_shows_on_a_terminal_alone(folder: Path, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "nin_edge", "run", folder, "--model", tiny_model, "--json"]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    ours, theirs = pty.openpty()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "labelling images 3 / 3" in shown
    assert done.stdout == piped.stdout


# --- heatmaps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.png", "new/out.jpg"])
def test_a_heatmap_of_one_image_is_a_file(photo: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    assert _run(photo, "--heatmap", out).exit_code == 0
    with Image.open(out) as drawn, Image.open(photo) as whole:
        assert drawn.format == ("PNG" if out.suffix == ".png" else "JPEG")
        assert drawn.width == whole.width
        assert drawn.height > whole.height  # the label stands below
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_heatmaps_of_several_images_go_to_a_folder(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out = tmp_path / "maps" / "today"
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    result = _run(folder, bad, "--heatmap", out, "--model", tiny_model)
    assert result.exit_code == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png-2.png", "a.png.png", "b.jpg.png"]


def test_a_heatmap_of_stdin_needs_its_bytes_once(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    command = ["run", "-", "--heatmap", str(out)]
    assert CliRunner().invoke(main, command, input=photo.read_bytes()).exit_code == 0
    assert out.is_file()


def test_a_heatmap_never_replaces_its_own_image(photo: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jpg"
    shutil.copy(photo, mine)
    result = _run(mine, "--heatmap", mine)
    assert result.exit_code == 1
    assert "the image itself" in result.stderr
    assert mine.read_bytes() == photo.read_bytes()


def test_heatmaps_never_replace_an_image_of_the_folder(folder: Path, tiny_model: Path) -> None:
    shutil.copy(folder / "a.png", folder / "a.png.png")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    result = _run(folder, "--heatmap", folder, "--model", tiny_model)
    assert result.exit_code == 1
    assert "one of the images" in result.stderr
    assert not result.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_every_image_gets_a_heatmap_of_its_own(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    shutil.copy(folder / "a.png", folder / "a.png-2")
    images = (folder / "a.png", folder / "inside" / "a.png", folder / "a.png-2")
    assert _run(*images, "--heatmap", tmp_path / "out", "--model", tiny_model).exit_code == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.png-2-2.png", "a.png-2.png", "a.png.png"]


def test_a_heatmap_that_cannot_be_written_is_named_first(
    photo: Path, folder: Path, tmp_path: Path
) -> None:
    unfit = _run(photo, "--heatmap", tmp_path / "out.txt")
    assert unfit.exit_code == 2
    assert "expected a name that ends in .png or .jpg" in unfit.stderr
    in_the_way = _run(folder, "--heatmap", photo)
    assert in_the_way.exit_code == 1
    assert "a file, expected a folder" in in_the_way.stderr
    assert not unfit.stdout
    assert not in_the_way.stdout


# --- video ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "expected"), [(None, range(FRAMES)), (3, [0, 3, 6])])
def test_a_clip_gives_a_line_for_each_frame_taken(
    clip: Path, tiny_model: Path, every: int | None, expected: list[int]
) -> None:
    options = [] if every is None else ["--every", every]
    as_json = _run("--video", clip, *options, "--model", tiny_model, "--json")
    assert as_json.exit_code == 0, as_json.stderr
    answers = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [answer["frame"] for answer in answers] == list(expected)
    assert [answer["seconds"] for answer in answers] == pytest.approx([n / 10 for n in expected])
    assert {answer["video"] for answer in answers} == {str(clip)}
    classify = Classifier(tiny_model, provider="cpu", threads=1)
    for answer in answers:  # MJPG is lossy: near, but no mirrored or recoloured frame
        original = classify(golden_image(answer["frame"], 48, 64))
        assert answer["score"] == pytest.approx(max(original.probabilities), abs=0.1)
    rows = _run("--video", clip, *options, "--model", tiny_model).stdout.splitlines()
    assert [int(row.split()[1]) for row in rows] == list(expected)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder, expected a video file"),
        (lambda path: path.write_text("text"), "expected a video"),
    ],
)
def test_what_is_no_video_is_one_clear_line(tmp_path: Path, make: object, said: str) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = tmp_path / "clip.mp4"
    make(path)
    command = [sys.executable, "-m", "nin_edge", "run", "--video", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert str(path) in line
    assert said in line


def test_opencv_that_is_missing_is_named_with_its_command(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = _run("--video", clip)
    assert result.exit_code == 1
    assert "pip install opencv-python-headless" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["photo.jpg", "--video", "clip.avi"],
        ["photo.jpg", "--every", "2"],
        ["--video", ""],
        ["--video", "clip.avi", "--every", "0"],
        ["--video", "clip.avi", "--heatmap", "out.png"],
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(arguments: list[str]) -> None:
    assert _run(*arguments).exit_code == 2

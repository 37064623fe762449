"""`nin-edge run`: labels of images, folders and standard input, heatmaps, videos."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge.cli import main
from nin_edge_runtime import Classifier, ImageError, heatmap
from nin_edge_runtime.golden import golden_image

FRAMES = 7


def _run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)], input=stdin)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(golden_image(3, 30, 40)).save(path)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for seed in range(FRAMES):
        writer.write(np.ascontiguousarray(golden_image(seed, 48, 64)[:, :, ::-1]))
    writer.release()
    return path


# --- images ---------------------------------------------------------------------------------------


def test_labels_a_photo_with_the_default_model(photo: Path) -> None:
    result = _run(photo)
    assert result.exit_code == 0
    assert result.stdout.split()[1] == "cat"
    assert len(result.stdout.split("%")) == 6  # five classes and the end


def test_prints_json_lines(picture: Path, tiny_model: Path) -> None:
    result = _run(picture, "--model", tiny_model, "--json", "--top-k", 2)
    answer = json.loads(result.stdout)
    assert set(answer) == {"image", "label", "score", "unknown", "top"}
    assert answer["image"] == str(picture)
    assert answer["top"][0] == {"label": answer["label"], "score": answer["score"]}
    assert len(answer["top"]) == 2
    assert answer["unknown"] is False


def test_reads_one_image_from_stdin(picture: Path, tiny_model: Path) -> None:
    data = picture.read_bytes()
    by_path = json.loads(_run(picture, "--model", tiny_model, "--json").stdout)
    by_stdin = json.loads(_run("-", "--model", tiny_model, "--json", stdin=data).stdout)
    assert by_stdin == {**by_path, "image": "-"}


def test_reads_folders_recursively_and_sorted(
    picture: Path, tmp_path: Path, tiny_model: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    for name in ("z.png", "b/a.PNG", "a.png", "notes.txt", ".hidden.png"):
        shutil.copy(picture, folder / name)
    result = _run(folder, "--model", tiny_model, "--json")
    names = [json.loads(line)["image"] for line in result.stdout.splitlines()]
    assert names == [str(folder / name) for name in ("a.png", "b/a.PNG", "z.png")]


def test_answers_the_rest_when_one_file_is_bad(
    picture: Path, tmp_path: Path, tiny_model: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    result = _run(picture, bad, picture, "--model", tiny_model)
    assert result.exit_code == 1
    assert result.stdout.count("picture.png") == 2
    assert f"{bad}: not an image" in result.stderr
    assert "1 of 3 images could not be read" in result.stderr
    as_json = _run(bad, "--model", tiny_model, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["error"].startswith("not an image")


def test_marks_answers_below_the_score_asked_for(picture: Path, tiny_model: Path) -> None:
    result = _run(picture, "--model", tiny_model, "--min-score", 1, "--json")
    assert json.loads(result.stdout)["unknown"] is True
    assert "unknown" in _run(picture, "--model", tiny_model, "--min-score", 1).stdout


def _bad_images(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = io.BytesIO()
    Image.fromarray(golden_image(1, 64, 64)).save(whole, "JPEG")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("I am no picture")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:400])
    (folder / "none").mkdir()
    return {
        "missing": (folder / "nowhere.jpg", "no such file"),
        "empty": (folder / "empty.jpg", "an empty file"),
        "text": (folder / "text.jpg", "not an image"),
        "truncated": (folder / "cut.jpg", "cannot be decoded"),
        "no images": (folder / "none", "no image files"),
    }


@pytest.mark.parametrize("fault", ["missing", "empty", "text", "truncated", "no images"])
def test_says_what_is_wrong_with_an_image(fault: str, tmp_path: Path, tiny_model: Path) -> None:
    path, reason = _bad_images(tmp_path)[fault]
    result = _run(path, "--model", tiny_model)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(path) in line
    assert line.count(str(path)) == 1
    assert reason in line


@pytest.mark.parametrize(
    "options",
    [
        ["--top-k", "0"],
        ["--min-score", "2"],
        ["--min-score", "nan"],
        ["--model", ""],
        ["--provider", "tpu"],
        ["--nonsense"],
        [],
    ],
    ids=lambda options: " ".join(options) or "no image",
)
def test_wrong_usage_exits_with_2(options: list[str], photo: Path) -> None:
    assert _run(*([photo] if options else []), *options).exit_code == 2


def test_an_empty_image_name_is_not_the_current_folder(tiny_model: Path) -> None:
    result = _run("", "--model", tiny_model)
    assert result.exit_code == 1
    assert "an empty name" in result.stderr


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


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix)


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
    assert pictures(out) == ["a.png-2.png", "a.png.png", "b.jpg.png"]


def test_a_heatmap_of_stdin_needs_its_bytes_once(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert _run("-", "--heatmap", out, stdin=photo.read_bytes()).exit_code == 0
    assert out.is_file()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_read_once(photo: Path, tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "out.png"
    os.mkfifo(pipe)
    for data, code in ((photo.read_bytes(), 0), (b"no image", 1)):
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        result = _run(pipe, "--heatmap", out)
        writer.join()
        assert result.exit_code == code
    assert result.stderr.startswith(f"{pipe}: image of 8 bytes: not an image")
    assert out.is_file()


def test_a_heatmap_that_fails_does_not_stop_the_others(
    folder: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overlay(image: Path, *other: object, **options: object) -> Image.Image:
        if image.name == "b.jpg":
            raise ImageError(f"{image}: no such file")
        return drawn(image, *other, **options)  # type: ignore[arg-type]

    drawn = heatmap.overlay
    monkeypatch.setattr(heatmap, "overlay", overlay)
    result = _run(folder, "--heatmap", tmp_path / "out", "--model", tiny_model)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 3
    assert "b.jpg.png: not drawn, " in result.stderr
    assert pictures(tmp_path / "out") == ["a.png-2.png", "a.png.png"]


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
    assert pictures(tmp_path / "out") == ["a.png-2-2.png", "a.png-2.png", "a.png.png"]


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


def test_a_file_that_is_no_video_is_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = tmp_path / "clip.mp4"
    path.write_text("text")
    # A process of its own: OpenCV prints native lines past Python's stderr.
    command = [sys.executable, "-m", "nin_edge", "run", "--video", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert str(path) in line
    assert "expected a video" in line


@pytest.mark.parametrize(
    ("name", "said"), [("missing.mp4", "no such file"), ("", "a folder, expected a video file")]
)
def test_a_path_without_a_video_is_one_clear_line(tmp_path: Path, name: str, said: str) -> None:
    result = _run("--video", tmp_path / name)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / name) in line
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

"""The command line: help, output, exit codes and every bad input it can be given."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge.cli import main, printable
from nin_edge_runtime import DEFAULT_MODEL
from nin_edge_runtime.golden import golden_image

VERBS = main.list_commands(click.Context(main))


def _run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def _one_line(result: Result) -> str:
    """The error, which has to be one line on stderr with nothing else."""
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(golden_image(3, 30, 40)).save(path)
    return path


# --- the group ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = _run(verb, "--help")
    assert result.exit_code == 0
    assert "--help" in result.output


def test_version_is_printed() -> None:
    assert "0.1.0" in _run("--version").output


def test_unknown_verb_is_a_usage_error() -> None:
    assert _run("fly").exit_code == 2


def test_help_starts_without_heavy_packages() -> None:
    code = (
        "import sys; from nin_edge.cli import main; "
        "main(['--help'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'numpy', 'onnx', 'PIL'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[31mb\nc\u202e é") == "a\\x1b[31mb\\nc\\u202e é"


@pytest.mark.parametrize(
    ("module", "package", "arguments"),
    [
        ("onnxruntime", "onnxruntime", ["run", "x.jpg"]),
        ("torch", "torch", ["export"]),
        ("onnxsim", "onnxsim", ["export"]),
        ("matplotlib", "matplotlib", ["export"]),
        ("safetensors", "safetensors", ["train", "data"]),
        ("matplotlib", "matplotlib", ["train", "data"]),
    ],
)
def test_missing_package_is_named_with_its_command(
    module: str, package: str, arguments: list[str], tmp_path: Path
) -> None:
    # As on a machine without it: Python then finds no such module.
    code = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {module!r}:\n"
        f"            raise ModuleNotFoundError('hidden', name={module!r})\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from nin_edge.cli import main\n"
        f"main({arguments!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert f"pip install {package}" in done.stderr
    assert "Traceback" not in done.stderr


# --- run ------------------------------------------------------------------------------------------


def test_run_labels_a_photo_with_the_default_model(photo: Path) -> None:
    result = _run("run", photo)
    assert result.exit_code == 0
    assert result.stdout.split()[1] == "cat"
    assert len(result.stdout.split("%")) == 6  # five classes and the end


def test_run_prints_json_lines(picture: Path, tiny_model: Path) -> None:
    result = _run("run", picture, "--model", tiny_model, "--json", "--top-k", 2)
    answer = json.loads(result.stdout)
    assert set(answer) == {"image", "label", "score", "unknown", "top"}
    assert answer["image"] == str(picture)
    assert answer["top"][0] == {"label": answer["label"], "score": answer["score"]}
    assert len(answer["top"]) == 2
    assert answer["unknown"] is False


def test_run_reads_one_image_from_stdin(picture: Path, tiny_model: Path) -> None:
    data = picture.read_bytes()
    by_path = json.loads(_run("run", picture, "--model", tiny_model, "--json").stdout)
    by_stdin = json.loads(_run("run", "-", "--model", tiny_model, "--json", stdin=data).stdout)
    assert by_stdin == {**by_path, "image": "-"}


def test_run_reads_folders_recursively_and_sorted(
    picture: Path, tmp_path: Path, tiny_model: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    for name in ("z.png", "b/a.PNG", "a.png", "notes.txt", ".hidden.png"):
        shutil.copy(picture, folder / name)
    result = _run("run", folder, "--model", tiny_model, "--json")
    names = [json.loads(line)["image"] for line in result.stdout.splitlines()]
    assert names == [str(folder / name) for name in ("a.png", "b/a.PNG", "z.png")]


def test_run_answers_the_rest_when_one_file_is_bad(
    picture: Path, tmp_path: Path, tiny_model: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    result = _run("run", picture, bad, picture, "--model", tiny_model)
    assert result.exit_code == 1
    assert result.stdout.count("picture.png") == 2
    assert f"{bad}: not an image" in result.stderr
    assert "1 of 3 images could not be read" in result.stderr
    as_json = _run("run", bad, "--model", tiny_model, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["error"].startswith("not an image")


def test_run_marks_answers_below_the_score_asked_for(picture: Path, tiny_model: Path) -> None:
    result = _run("run", picture, "--model", tiny_model, "--min-score", 1, "--json")
    assert json.loads(result.stdout)["unknown"] is True
    assert "unknown" in _run("run", picture, "--model", tiny_model, "--min-score", 1).stdout


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


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "no images"])
def test_run_says_what_is_wrong_with_an_image(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    path, reason = _bad_images(tmp_path)[kind]
    result = _run("run", path, "--model", tiny_model)
    assert result.exit_code == 1
    line = _one_line(result)
    assert str(path) in line
    assert line.count(str(path)) == 1
    assert reason in line


def _bad_models(folder: Path, good: Path, weights: Path) -> dict[str, tuple[Path, str]]:
    data = good.read_bytes()
    (folder / "cut.onnx").write_bytes(data[: len(data) // 2])
    middle = len(data) // 2
    (folder / "changed.onnx").write_bytes(
        data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    )
    foreign = onnx.load_from_string(data)
    del foreign.metadata_props[:]
    (folder / "foreign.onnx").write_bytes(foreign.SerializeToString())
    newer = onnx.load_from_string(data)
    for entry in newer.metadata_props:
        if entry.key == "nin_edge.format_version":
            entry.value = "99"
    (folder / "newer.onnx").write_bytes(newer.SerializeToString())
    (folder / "text.onnx").write_text("no model")
    return {
        "missing": (folder / "nowhere.onnx", "no such file"),
        "truncated": (folder / "cut.onnx", "not an ONNX model"),
        "altered": (folder / "changed.onnx", "damaged or altered"),
        "foreign": (folder / "foreign.onnx", "without nin-edge's metadata"),
        "newer": (folder / "newer.onnx", "format 99"),
        "text": (folder / "text.onnx", "not an ONNX model"),
        "checkpoint": (weights, "a checkpoint (safetensors), expected an .onnx model"),
        "folder": (folder, "a folder"),
    }


@pytest.mark.parametrize(
    "kind",
    ["missing", "truncated", "altered", "foreign", "newer", "text", "checkpoint", "folder"],
)
@pytest.mark.parametrize("verb", ["run", "verify", "info"])
def test_bad_model_is_one_clear_line(
    verb: str, kind: str, tmp_path: Path, tiny_model: Path, tiny_weights: Path, photo: Path
) -> None:
    path, reason = _bad_models(tmp_path, tiny_model, tiny_weights)[kind]
    result = _run(verb, *([photo, "--model"] if verb == "run" else []), path)
    assert result.exit_code == 1
    line = _one_line(result)
    assert str(path) in line
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
    assert _run("run", *([photo] if options else []), *options).exit_code == 2


@pytest.mark.parametrize("stream", ["0<&-", "2>&-"])
def test_a_closed_stream_is_no_traceback(stream: str, picture: Path, tiny_model: Path) -> None:
    image = "-" if stream.startswith("0") else str(picture)
    command = f"{sys.executable} -m nin_edge run {image} --model {tiny_model} {stream}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == (1 if image == "-" else 0)
    assert "Traceback" not in done.stderr


def test_an_empty_image_name_is_not_the_current_folder(tiny_model: Path) -> None:
    result = _run("run", "", "--model", tiny_model)
    assert result.exit_code == 1
    assert "an empty name" in result.stderr


def test_a_file_in_the_way_of_the_output_is_named_first(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for verb in (["export", tiny_weights], ["train", tmp_path]):
        result = _run(*verb, "-o", tmp_path / "file" / "out")
        assert result.exit_code == 1
        assert f"{tmp_path / 'file'}: a file, expected a folder" in _one_line(result)


def test_cuda_that_is_not_there_exits_with_4(photo: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built with CUDA")
    result = _run("run", photo, "--provider", "cuda")
    assert result.exit_code == 4
    assert "onnxruntime-gpu" in _one_line(result)


def test_closed_pipe_ends_quietly(picture: Path, tiny_model: Path) -> None:
    images = [str(picture)] * 2000
    command = [sys.executable, "-m", "nin_edge", "run", *images, "--model", str(tiny_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""


def test_run_imports_nothing_that_a_device_lacks(photo: Path) -> None:
    code = (
        "import sys; from nin_edge.cli import main; "
        f"main(['run', {str(photo)!r}], standalone_mode=False); "
        "sys.exit(str({'torch', 'onnx', 'onnxsim', 'safetensors'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


# --- verify ---------------------------------------------------------------------------------------


def test_verify_passes_on_the_default_model() -> None:
    result = _run("verify", DEFAULT_MODEL)
    assert result.exit_code == 0
    assert "8 golden samples" in result.stdout


def test_verify_exits_with_3_where_the_answers_are_others(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nin_edge_runtime import verify

    draw = verify.golden_image
    # A machine that computes otherwise, in effect: it sees other images.
    monkeypatch.setattr(verify, "golden_image", lambda s, h, w: draw(s + 1, h, w))
    result = _run("verify", tiny_model)
    assert result.exit_code == 3
    assert "golden samples differ" in _one_line(result)

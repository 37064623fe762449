"""The group of verbs: help, missing packages, broken streams, and errors that all verbs share."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge.cli import main
from nin_edge.text import printable
from nin_edge_runtime.golden import golden_image

VERBS = main.list_commands(click.Context(main))
WIDTH = 80  # of a terminal, in characters


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


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = _run(verb, "--help")
    assert result.exit_code == 0
    assert "--help" in result.output


def test_one_line_help_of_every_verb_is_whole() -> None:
    listed = _run("--help").output.split("Commands:\n")[1].rstrip().splitlines()
    assert [line.split()[0] for line in listed] == VERBS
    for line in listed:
        assert re.fullmatch(r"  \w+ +[A-Z].*[^.]\.", line)
        assert len(line) <= WIDTH


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


@pytest.fixture
def fresh_toolkit() -> Iterator[None]:
    """The toolkit as it is before its first import; afterwards, the modules of before are back."""
    names = ("nin_edge", "nin_edge_export")
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in names}
    for name in before:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in names]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.usefixtures("fresh_toolkit")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("onnxruntime", ["run", "x.jpg"]),
        ("torch", ["export"]),
        ("onnxsim", ["export"]),
        ("matplotlib", ["export"]),
        ("safetensors", ["train", "data"]),
        ("matplotlib", ["train", "data"]),
        ("onnxsim", ["train", "data", "--latency", "1"]),
    ],
)
def test_missing_package_is_named_with_its_command(
    module: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    from nin_edge.cli import main

    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert f"pip install {module}" in _one_line(result)


# --- errors ---------------------------------------------------------------------------------------


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


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["0<&-", "2>&-"])
def test_a_closed_stream_is_no_traceback(stream: str, picture: Path, tiny_model: Path) -> None:
    image = "-" if stream.startswith("0") else str(picture)
    command = f"{sys.executable} -m nin_edge run {image} --model {tiny_model} {stream}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == (1 if image == "-" else 0)
    assert "Traceback" not in done.stderr


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

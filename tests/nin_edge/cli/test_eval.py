"""`nin-edge eval`: the same figures from a checkpoint and its export, and every bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.cli import main
from nin_edge.cli._data import show_progress
from nin_edge.network import NetworkConfig, NiN
from nin_edge_export import ExportOptions, export_models
from nin_edge_runtime import Classifier, Prediction
from nin_edge_runtime.preprocessing import Preprocessing

SIZE = 16  # side of the images and of the networks: nothing is resized
LABELS = tuple(f"class-{letter}" for letter in "abcdefg")
PER_CLASS = 20
ECE_TOLERANCE = 1e-5  # of probabilities that are within 1e-5 of each other
GOLDEN = ("circle", "square", "étoile")  # classes of the tiny model


def patches(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Images of four random colours each."""
    colours = rng.integers(0, 256, size=(count, 2, 2, 3), dtype=np.uint8)
    return colours.repeat(SIZE // 2, axis=1).repeat(SIZE // 2, axis=2)


def save(images: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir(parents=True)
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{index:03}.png")


def made_to_differ(channels: int) -> Checkpoint:
    """A random network whose last layer is moved so that its answers are of many classes."""
    torch.manual_seed(0)
    config = NetworkConfig.from_preset(
        "nin-bn", classes=len(LABELS), channels=channels, size=SIZE, width=0.01
    )
    network = NiN(config).eval()
    preprocessing = Preprocessing(SIZE, channels, (0.5,) * channels, (0.25,) * channels)
    images = patches(np.random.default_rng(1), 100)[..., :channels]
    last = network.stages[-1][-1]  # type: ignore[index]
    with torch.no_grad():
        last.weight *= 10
        logits = evaluate.logits(network, preprocessing, images, np.arange(len(images)))
        last.bias -= torch.from_numpy(logits.mean(axis=0))
    return Checkpoint(
        config=config,
        weights=network.state_dict(),
        labels=LABELS,
        preprocessing=preprocessing,
        data=DataSource("patches"),
        temperature=1.5,
    )


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A checkpoint and its fp32 export."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = made_to_differ(request.param)
    checkpoint.save(folder / "seven.safetensors")
    (model,) = export_models(checkpoint, ExportOptions(precisions=("fp32",)))
    (folder / "seven.fp32.onnx").write_bytes(model.data)
    return [folder / "seven.safetensors", folder / "seven.fp32.onnx"]


@pytest.fixture(scope="module")
def patches_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("data") / "patches"
    rng = np.random.default_rng(2)
    for label in LABELS:
        save(patches(rng, PER_CLASS), top / label)
    return top


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder of the tiny model's three classes: 10 images of each, of which 2 are the test."""
    for label in GOLDEN:
        save(patches(rng, 10), tmp_path / "data" / label)
    return tmp_path / "data"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def figures(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def failed(result: Result, code: int, *words: str) -> None:
    """The command failed with this exit code and one clear line, without a traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]
    assert result.stderr.splitlines()[-1] == errors[0]


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "holdout", "train", "all"])
def test_checkpoint_and_export_have_the_same_figures(
    pair: list[Path], patches_folder: Path, split: str
) -> None:
    by_torch, by_onnx = (figures(model, patches_folder, "--split", split) for model in pair)
    assert (by_torch["engine"], by_onnx["engine"]) == ("PyTorch", "ONNX Runtime")
    for name in ("images", "top1", "top5", "classes", "confusion", "precision", "data", "split"):
        assert by_torch[name] == by_onnx[name]
    assert by_torch["ece"] == pytest.approx(by_onnx["ece"], abs=ECE_TOLERANCE)
    for part in ("calibration", "thresholds"):
        for one, other in zip(by_torch[part], by_onnx[part], strict=True):
            assert one == pytest.approx(other, abs=ECE_TOLERANCE)
    images = {"test": 28, "holdout": 14, "train": 98, "all": 140}[split]
    assert by_torch["images"] == images
    assert 0 < by_torch["top1"] < by_torch["top5"] <= 1  # else the comparison says little
    assert sum(map(sum, by_torch["confusion"])) == images


def test_figures_are_those_of_one_image_at_a_time(pair: list[Path], patches_folder: Path) -> None:
    classify = Classifier(pair[1])
    confusion = np.zeros((7, 7), dtype=int)
    in_top5 = 0
    for row, label in enumerate(LABELS):
        for path in sorted((patches_folder / label).iterdir()):
            prediction = classify(path)
            confusion[row, LABELS.index(prediction.label)] += 1
            in_top5 += label in dict(prediction.top(5))
    answer = figures(pair[1], patches_folder, "--split", "all")
    assert answer["confusion"] == confusion.tolist()
    assert answer["top1"] == pytest.approx(np.trace(confusion) / 140)
    assert answer["top5"] == pytest.approx(in_top5 / 140)


def test_thresholds_are_what_min_score_does(pair: list[Path], patches_folder: Path) -> None:
    rows = figures(pair[1], patches_folder, "--split", "all")["thresholds"]
    assert 0 < rows[0]["coverage"] < 1  # else this says little
    for row in rows:
        classify = Classifier(pair[1], min_score=row["min_score"])
        predictions = [
            (classify(path), label)
            for label in LABELS
            for path in sorted((patches_folder / label).iterdir())
        ]
        answered = [made.label == label for made, label in predictions if not made.unknown]
        assert row["coverage"] == pytest.approx(len(answered) / 140)
        assert row["top1"] == (pytest.approx(np.mean(answered)) if answered else None)


def test_images_go_through_the_model_a_batch_at_a_time(
    pair: list[Path], patches_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = Classifier.batch

    def batch(self: Classifier, images: list[Any]) -> list[Prediction]:
        sizes.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(Classifier, "batch", batch)
    figures(pair[1], patches_folder, "--split", "all")
    assert sizes == [100, 40]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals_alone(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    show = show_progress("evaluating images")
    show(1000, 2000)
    show(2000, 2000)
    line = "\revaluating images 1,000 / 2,000\revaluating images 2,000 / 2,000\n"
    assert capsys.readouterr().err == (line if terminal else "")


def test_json_has_every_figure(data: Path, tiny_model: Path) -> None:
    answer = figures(tiny_model, data)
    about = {key: answer[key] for key in ("model", "precision", "provider", "data", "split")}
    assert about == {
        "model": str(tiny_model),
        "precision": "fp32",
        "provider": "cpu",
        "data": "data",
        "split": "test",
    }
    assert (answer["images"], answer["unreadable"], answer["top5"]) == (6, 0, None)
    assert [entry["label"] for entry in answer["classes"]] == list(GOLDEN)
    assert all(
        set(entry) == {"label", "precision", "recall", "f1", "support"}
        for entry in answer["classes"]
    )
    assert sum(entry["count"] for entry in answer["calibration"]) == 6
    # The tiny model never gives this answer: a share of nothing is null, and not NaN.
    assert answer["classes"][0]["precision"] is None
    assert answer["classes"][0]["recall"] == 0


def test_text_has_a_summary_and_all_tables(pair: list[Path], patches_folder: Path) -> None:
    answer = figures(pair[1], patches_folder)
    result = run(pair[1], patches_folder)
    summary, *rest = result.stdout.splitlines()
    assert summary.startswith(f"top-1 {answer['top1']:.2%}, top-5 {answer['top5']:.2%}, ")
    assert f"ECE {answer['ece']:.4f}, 28 images of patches (test)" in summary
    assert summary.endswith("seven.fp32.onnx (fp32) by ONNX Runtime on cpu")
    assert rest[1] == "min-score  answered  of those right"
    shown = [line.split() for line in rest[2:8]]
    assert shown == [
        [
            f"{row['min_score']:g}",
            f"{row['coverage']:.2%}",
            "-" if row["top1"] is None else f"{row['top1']:.2%}",
        ]
        for row in answer["thresholds"]
    ]
    rows = {line.split()[0]: line.split()[1:] for line in rest[10:17]}
    for entry in answer["classes"]:
        shares = [entry[name] for name in ("precision", "recall", "f1")]
        cells = ["-" if share is None else f"{share:.2%}" for share in shares]
        assert rows[entry["label"]] == [*cells, str(entry["support"])]
    matrix = [[int(cell) for cell in line.split()[2:]] for line in rest[-7:]]
    assert matrix == answer["confusion"]
    assert "\r" not in result.stderr  # no redrawn lines where it is no terminal


def test_large_confusion_matrix_is_left_to_json_and_plot(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    labels = tuple(f"{index:02}" for index in range(21))
    for label in labels:
        save(patches(rng, 3), tmp_path / "many" / label)
    config = NetworkConfig.from_preset("nin-bn", classes=21, channels=3, size=SIZE, width=0.01)
    made = made_to_differ(3)
    weights = NiN(config).state_dict()
    checkpoint = replace(made, config=config, weights=weights, labels=labels, temperature=None)
    checkpoint.save(tmp_path / "many.safetensors")
    result = run(tmp_path / "many.safetensors", tmp_path / "many")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1 + 8 + 2 + 21
    assert "confusion: a row" not in result.stdout


def test_unreadable_images_are_named_and_left_out(data: Path, tiny_weights: Path) -> None:
    (data / "circle" / "bad\x1b[2J.png").write_bytes(b"I am text")
    result = run(tiny_weights, data, "--split", "all", "--json")
    assert result.exit_code == 0
    assert r"left out circle/bad\x1b[2J.png: " in result.stderr
    assert "\x1b" not in result.output
    answer = json.loads(result.stdout)
    assert (answer["images"], answer["unreadable"]) == (30, 1)


def test_model_is_evaluated_where_torch_is_not(data: Path, tiny_model: Path) -> None:
    code = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'safetensors', 'onnx', 'matplotlib'):\n"
        "            raise ModuleNotFoundError('hidden', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from nin_edge.cli import main\n"
        "main(['eval', *sys.argv[1:]])\n"
    )

    def child(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = child(tiny_model, data, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == figures(tiny_model, data)
    done = child(tiny_model, data, "--plot", data / "plot.png")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install matplotlib")
    assert done.stdout == ""


# --- the picture ----------------------------------------------------------------------------------


def test_plot_is_a_png(pair: list[Path], patches_folder: Path, tmp_path: Path) -> None:
    plot = tmp_path / "confusion.png"
    plot.write_text("an older one")
    result = run(pair[0], patches_folder, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert str(plot) in result.stderr
    assert result.stdout == run(pair[0], patches_folder).stdout
    with Image.open(plot) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 300
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10
    assert [path.name for path in tmp_path.glob("*confusion*")] == ["confusion.png"]


def test_plot_takes_any_label(tmp_path: Path, rng: np.random.Generator) -> None:
    """A formula, a character that no font has, an escape, and one that is too long."""
    labels = ("$\\frac$", "a\x1b[2J\nb", "x" * 200, "猫")
    for label in labels:
        save(patches(rng, 3), tmp_path / "odd" / label)
    config = NetworkConfig.from_preset("nin-bn", classes=4, channels=3, size=SIZE, width=0.01)
    weights = NiN(config).state_dict()
    replace(made_to_differ(3), config=config, weights=weights, labels=tuple(sorted(labels))).save(
        tmp_path / "odd.safetensors"
    )
    result = run(tmp_path / "odd.safetensors", tmp_path / "odd", "--plot", tmp_path / "odd.png")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    with Image.open(tmp_path / "odd.png") as image:
        assert max(image.size) < 1000


@pytest.mark.parametrize("kind", ["no folder", "file as folder", "a folder", "sealed", "full disk"])
def test_plot_that_cannot_be_written_is_one_line(
    kind: str, data: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plot = tmp_path / "plots" / "c.png"
    if kind == "file as folder":
        plot.parent.write_text("in the way")
    elif kind == "a folder":
        plot.mkdir(parents=True)
    elif kind == "sealed":
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere")
        plot.parent.mkdir(mode=0o500)
    elif kind == "full disk":
        plot.parent.mkdir()

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        assert run(tiny_model, data).exit_code == 0  # fills the cache, which needs the disk too
        monkeypatch.setattr("nin_edge.files.os.fsync", full)
    result = run(tiny_model, data, "--plot", plot)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert str(plot) in errors[0]
    if kind == "full disk":
        assert "top-1" in result.stdout  # what was computed is not lost
        assert not list(plot.parent.iterdir())
    else:
        assert result.stdout == ""


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument 'MODEL'"),
        (("model.onnx",), "Missing argument 'DATA'"),
        (("model.onnx", "data", "--split", "validation"), "'validation' is not one of"),
        (("model.onnx", "data", "--provider", "tpu"), "'tpu' is not one of"),
        (("model.onnx", "data", "--plot", "c.svg"), "c.svg: expected a name that ends in .png"),
        (("model.onnx", "data", "more"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], words: str) -> None:
    failed(run(*arguments), 2, words)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "folder"])
def test_bad_model_is_one_clear_line(
    kind: str, suffix: str, data: Path, tmp_path: Path, tiny_model: Path, tiny_weights: Path
) -> None:
    good = tiny_model if suffix == ".onnx" else tiny_weights
    bad = tmp_path / f"bad{suffix}"
    if kind == "truncated":
        bad.write_bytes(good.read_bytes()[:1000])
    elif kind == "text":
        bad.write_text("no model")
    elif kind == "folder":
        bad.mkdir()
    failed(run(bad, data), 1, str(bad))


def test_model_of_no_known_kind_is_refused(data: Path) -> None:
    failed(run("model.pt", data), 1, "model.pt: expected a checkpoint (.safetensors) or a model")


def test_answers_that_are_no_numbers_are_refused(
    data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.load(tiny_weights)
    weights = {
        name: value * float("nan") if value.is_floating_point() else value
        for name, value in checkpoint.weights.items()
    }
    replace(checkpoint, weights=weights).save(tmp_path / "nan.safetensors")
    failed(run(tmp_path / "nan.safetensors", data), 1, "make no sense: a probability of nan")


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "nothing readable"])
def test_bad_data_is_one_clear_line(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    bad = tmp_path / "bad"
    if kind == "empty":
        bad.mkdir()
    elif kind == "text":
        bad.write_text("no data")
    elif kind == "nothing readable":
        for label in GOLDEN:
            (bad / label).mkdir(parents=True)
            (bad / label / "0.png").write_text("no image")
    failed(run(tiny_model, bad), 1, str(bad))


@pytest.mark.parametrize("model", ["tiny_model", "tiny_weights"])
@pytest.mark.parametrize("kind", ["other", "missing", "besides"])
def test_other_classes_are_named(
    kind: str, model: str, data: Path, request: pytest.FixtureRequest
) -> None:
    words = {
        "other": "without étoile, with star besides",
        "missing": "without étoile, with none besides",
        "besides": "without none, with star besides",
    }[kind]
    if kind == "other":
        (data / "étoile").rename(data / "star")
    elif kind == "missing":
        shutil.rmtree(data / "étoile")
    else:
        shutil.copytree(data / "étoile", data / "star")
    failed(run(request.getfixturevalue(model), data), 1, "data: its labels are not", words)


def test_classes_in_another_order_are_refused(
    data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    checkpoint = replace(Checkpoint.load(tiny_weights), labels=GOLDEN[::-1])
    checkpoint.save(tmp_path / "reversed.safetensors")
    words = "another order, the model's is étoile, square, circle"
    failed(run(tmp_path / "reversed.safetensors", data), 1, words)


@pytest.mark.parametrize("split", ["test", "holdout"])
def test_empty_split_is_refused(
    split: str, tmp_path: Path, tiny_model: Path, rng: np.random.Generator
) -> None:
    for label in GOLDEN:  # one image of each: nothing can be set aside
        save(patches(rng, 1), tmp_path / "few" / label)
    result = run(tiny_model, tmp_path / "few", "--split", split)
    failed(result, 1, f"few: no images in its split '{split}'", "--split all takes all 3")
    assert figures(tiny_model, tmp_path / "few", "--split", "all")["images"] == 3


@pytest.mark.parametrize("model", ["tiny_model", "tiny_weights"])
def test_cuda_that_is_not_there_exits_with_4(
    model: str, data: Path, request: pytest.FixtureRequest
) -> None:
    import onnxruntime

    if torch.cuda.is_available() or (
        "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    ):
        pytest.skip("built with CUDA")
    failed(run(request.getfixturevalue(model), data, "--provider", "cuda"), 4, "cuda")

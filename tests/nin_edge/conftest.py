"""Small labelled images, and what is made of them, for the tests of the toolkit."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset, Location, open_dataset
from nin_edge.metrics import history
from nin_edge.network import NetworkConfig, NiN
from nin_edge.predict import logits
from nin_edge.training.recipe import Recipe
from nin_edge_runtime.preprocessing import Preprocessing

SIDE = 20
"""Side of the images, in pixels; the networks here take 16, so every image is resized."""

COLOURS = {"circle": "orangered", "square": "limegreen", "triangle": "royalblue"}

FolderMaker = Callable[..., Path]
Archiver = Callable[[Path, Path], Path]


@pytest.fixture(autouse=True)
def private_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """No test reads or writes the user's own cache."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache / "nin-edge"


@pytest.fixture
def decisive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small hold-outs of these tests choose the epoch, as larger ones do."""
    monkeypatch.setattr(history, "DECISIVE", 1)


@pytest.fixture
def gpu() -> torch.device:
    """The GPU, or the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return torch.device("cuda")


def shape(label: str, rng: np.random.Generator) -> Image.Image:
    """A coloured shape of random place and size on dark noise."""
    noise = rng.integers(0, 60, size=(SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    draw = ImageDraw.Draw(image)
    radius = int(rng.integers(4, 8))
    x, y = (int(v) for v in rng.integers(radius, SIDE - radius, size=2))
    box = (x - radius, y - radius, x + radius, y + radius)
    if label == "circle":
        draw.ellipse(box, fill=COLOURS[label])
    elif label == "triangle":
        corners = [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)]
        draw.polygon(corners, fill=COLOURS[label])
    else:
        draw.rectangle(box, fill=COLOURS.get(label, "gold"))
    return image


@pytest.fixture(scope="session")
def make_folder() -> FolderMaker:
    """Writes a folder of images: {folder below the top: how many}; its own name is the class."""

    def make(top: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        for folder, count in counts.items():
            (top / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                shape(Path(folder).name, rng).save(top / folder / f"{index:03}.png")
        return top

    return make


@pytest.fixture(scope="session")
def encoded() -> bytes:
    """One image as the bytes of a file."""
    buffer = io.BytesIO()
    shape("circle", np.random.default_rng(0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pack() -> Archiver:
    """Writes a folder's files to an archive, of the kind that its name ends in."""

    def write(folder: Path, archive: Path) -> Path:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive, "w") as zipped:
                for file in files:
                    zipped.write(file, file.relative_to(folder))
        else:
            kind = archive.suffix.removeprefix(".").replace("tar", "")
            with tarfile.open(archive, f"w:{kind}") as tar:
                for file in files:
                    tar.add(file, file.relative_to(folder))
        return archive

    return write


@pytest.fixture(scope="session")
def trained_run(
    shapes: Dataset, shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run that learnt the shapes; read-only."""
    from nin_edge.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "new" / "shapes"
    train(
        shapes,
        NetworkConfig.from_preset("nin-bn", classes=3, size=16, width=0.05),
        Recipe(epochs=6, batch_size=16),
        DataSource("shapes", "CC0"),
        folder,
        location=Location(shapes_folder, "shapes", None),
    )
    return folder


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory, make_folder: FolderMaker) -> Path:
    """Three classes that a tiny network can tell apart: 60 training and 15 test images of each."""
    counts = {f"train/{label}": 60 for label in COLOURS} | {
        f"test/{label}": 15 for label in COLOURS
    }
    return make_folder(tmp_path_factory.mktemp("data") / "shapes", counts)


@pytest.fixture(scope="session")
def shapes(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The shapes, opened at 16 x 16."""
    return open_dataset(shapes_folder, size=16, cache=tmp_path_factory.mktemp("shapes-cache"))


SEVEN = tuple(f"class-{letter}" for letter in "abcdefg")
"""Classes of `patches_folder` and of `seven_models`."""


def patches(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Images 16 x 16 of four random colours each."""
    colours = rng.integers(0, 256, size=(count, 2, 2, 3), dtype=np.uint8)
    return colours.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="session")
def patches_folder(make_once: Callable[..., Path]) -> Path:
    """Seven classes of 20 images, which differ in nothing but their names."""

    def fill(top: Path) -> None:
        rng = np.random.default_rng(2)
        for label in SEVEN:
            (top / label).mkdir()
            for index, pixels in enumerate(patches(rng, 20)):
                Image.fromarray(pixels).save(top / label / f"{index:03}.png")

    return make_once("patches", fill)


@pytest.fixture(scope="session")
def seven_models(make_once: Callable[..., Path]) -> tuple[Path, Path]:
    """A checkpoint that predicts all seven classes on patches, 16 x 16, and its fp32 export."""

    def fill(folder: Path) -> None:
        from nin_edge_export import ExportOptions, export_models  # torch's exporter is slow to load

        torch.manual_seed(0)
        config = NetworkConfig.from_preset(
            "nin-bn", classes=len(SEVEN), channels=3, size=16, width=0.01
        )
        network = NiN(config).eval()
        steps = Preprocessing(16, 3, (0.5,) * 3, (0.25,) * 3)
        images = patches(np.random.default_rng(1), 100)
        last = network.stages[-1][-1]  # type: ignore[index]
        with torch.no_grad():  # random weights alone would predict one class everywhere
            last.weight *= 10
            last.bias -= torch.from_numpy(logits(network, steps, images, np.arange(100)).mean(0))
        checkpoint = Checkpoint(
            config=config,
            weights=network.state_dict(),
            labels=SEVEN,
            preprocessing=steps,
            data=DataSource("patches"),
            temperature=1.5,
        )
        checkpoint.save(folder / "seven.safetensors")
        (model,) = export_models(checkpoint, ExportOptions(precisions=("fp32",)))
        (folder / "seven.fp32.onnx").write_bytes(model.data)

    folder = make_once("seven", fill)
    return folder / "seven.safetensors", folder / "seven.fp32.onnx"


@pytest.fixture(scope="session")
def write_teacher() -> Callable[..., Path]:
    """Writes an ONNX classifier of another program, and the JSON beside it.

    Its logits are a linear function of the mean colour of the normalised image.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def write(
        path: Path,
        weights: NDArray[np.float32],
        described: object = None,
        *,
        shape: tuple[int | str, ...] = ("n", 3, 24, 24),
        softmax: bool = False,
        nhwc: bool = False,
        element: int = TensorProto.FLOAT,
        outputs: tuple[str, ...] = ("scores",),
        external: bool = False,
        op: tuple[str, str] = ("", "Identity"),
    ) -> Path:
        values = weights.astype(helper.tensor_dtype_to_np_dtype(element))
        nodes = [helper.make_node(op[1], ["image"], ["taken"], domain=op[0])]
        if nhwc:
            nodes.append(helper.make_node("Transpose", ["taken"], ["nchw"], perm=[0, 3, 1, 2]))
        last = "logits" if softmax else outputs[0]
        nodes += [
            helper.make_node("GlobalAveragePool", ["nchw" if nhwc else "taken"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["colour"]),
            helper.make_node("MatMul", ["colour", "weights"], [last]),
        ]
        if softmax:
            nodes.append(helper.make_node("Softmax", ["logits"], [outputs[0]], axis=1))
        nodes += [helper.make_node("Identity", ["colour"], [name]) for name in outputs[1:]]
        graph = helper.make_graph(
            nodes,
            "classifier",
            [helper.make_tensor_value_info("image", element, shape)],
            [helper.make_tensor_value_info(name, element, ("n", "k")) for name in outputs],
            [numpy_helper.from_array(values, "weights")],
        )
        versions = {op[0]: 1, "": 18}
        opsets = [helper.make_opsetid(*version) for version in versions.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        if external:
            onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights")
        else:
            onnx.save(model, path)
        if described is not None:
            text = described if isinstance(described, str) else json.dumps(described)
            path.with_suffix(".json").write_text(text)
        return path

    return write

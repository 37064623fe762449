"""Triton's model repository: configurations by Triton's own schema, versions, refusals."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from google.protobuf import text_format

from nin_edge_export import ExportedModel
from nin_edge_export.triton import write_repository
from nin_edge_runtime import Classifier, NinEdgeError, read_model

MODELS = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def parse() -> Callable[[Path], Any]:
    """Reads a config.pbtxt by Triton's schema: unknown fields and wrong types are errors."""
    package = find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("tritonclient, which has Triton's schema, is not installed")
    # Importing the package tritonclient.grpc would need gRPC.
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    schema = module_from_spec(spec)
    spec.loader.exec_module(schema)
    return lambda path: text_format.Parse(path.read_text("utf-8"), schema.ModelConfig())


@pytest.mark.parametrize("file", ["format-1", "normalize", "none", "grey"])
def test_configuration_has_the_inputs_and_outputs_of_the_graph(
    file: str, tmp_path: Path, parse: Callable[[Path], Any]
) -> None:
    data, info = read_model(MODELS / f"{file}.fp32.onnx")
    model, _ = write_repository([ExportedModel(data, info, None, None)], "my model", tmp_path)
    assert model.name == "my-model-fp32"
    assert model.folder == tmp_path / "my-model-fp32" / "1"
    config = parse(tmp_path / model.name / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == (model.name, "onnxruntime", 64)
    assert config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(
        model.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    types = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
    for entries, values in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        names = entries[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
        assert [(each.name, names[each.data_type].name, list(each.dims)) for each in entries] == [
            (
                value.name,
                types[value.type],
                [dim if isinstance(dim, int) else -1 for dim in value.shape[1:]],
            )
            for value in values
        ]
    full = info.embedded == "full"  # its Resize runs on the CPU alone
    assert [group.kind == group.KIND_CPU for group in config.instance_group] == [True] * full
    (named,) = (each for each in config.output if each.label_filename)
    assert named.name == "probabilities"
    labels = (tmp_path / model.name / named.label_filename).read_text("utf-8").splitlines()
    assert tuple(labels) == info.labels


def test_python_model_has_its_own_configuration_and_a_file_that_loads(
    exported: ExportedModel, tmp_path: Path, parse: Callable[[Path], Any]
) -> None:
    _, model = write_repository([exported], "tiny", tmp_path)
    config = parse(tmp_path / "tiny-fp32-python" / "config.pbtxt")
    assert (model.name, config.name, config.backend) == (*["tiny-fp32-python"] * 2, "python")
    assert [(each.name, list(each.dims)) for each in (*config.input, *config.output)] == [
        ("image", [1]),
        ("label", [1]),
        ("score", [1]),
        ("probabilities", [3]),
    ]
    compile((model.folder / "model.py").read_text("utf-8"), "model.py", "exec")
    assert Classifier(model.folder / "model.onnx").labels == exported.info.labels


def test_a_graph_of_a_fixed_batch_is_not_batched_by_triton(
    exported: ExportedModel, tmp_path: Path, parse: Callable[[Path], Any]
) -> None:
    graph = onnx.load_model_from_string(exported.data)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    fixed = replace(exported, data=graph.SerializeToString())
    write_repository([fixed], "tiny", tmp_path)
    config = parse(tmp_path / "tiny-fp32" / "config.pbtxt")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [4, -1, -1, 3]
    assert list(config.output[0].dims) == [4, 3]


def test_a_second_export_is_a_second_version_and_keeps_the_configuration(
    exported: ExportedModel, tmp_path: Path
) -> None:
    write_repository([exported], "tiny", tmp_path)
    config = tmp_path / "tiny-fp32" / "config.pbtxt"
    config.write_text(config.read_text("utf-8") + "# mine\n")
    (tmp_path / "tiny-fp32" / "9").mkdir()
    (tmp_path / "tiny-fp32" / "9" / "model.onnx").write_bytes(exported.data)
    models = write_repository([exported], "tiny", tmp_path)
    assert [model.folder.name for model in models] == ["10", "2"]
    assert config.read_text("utf-8").endswith("# mine\n")
    assert sorted(path.name for path in (tmp_path / "tiny-fp32-python").iterdir()) == [
        "1",
        "2",
        "config.pbtxt",
        "labels.txt",
    ]
    mode = stat.S_IMODE((tmp_path / "tiny-fp32" / "10").stat().st_mode)
    assert mode == 0o755  # the server may run as another user


def _other_labels(model: ExportedModel) -> ExportedModel:
    return replace(model, info=replace(model.info, labels=("circle", "square", "hexagon")))


def _other_outputs(model: ExportedModel) -> ExportedModel:
    return replace(model, data=(MODELS / "none.fp32.onnx").read_bytes())


def _line_break(model: ExportedModel) -> ExportedModel:
    return replace(model, info=replace(model.info, labels=("circle", "a\nb", "square")))


def _line_end(model: ExportedModel) -> ExportedModel:
    return replace(model, info=replace(model.info, labels=("circle", "a\n", "square")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_labels, "tiny-fp32: a model of other labels, expected another folder"),
        (_other_outputs, "tiny-fp32: a model of other inputs or outputs"),
        (_line_break, r"the label 'a\\nb' has a line break"),
        (_line_end, r"the label 'a\\n' has a line break"),
    ],
)
def test_what_clients_rely_on_is_not_replaced(
    exported: ExportedModel,
    tmp_path: Path,
    change: Callable[[ExportedModel], ExportedModel],
    words: str,
) -> None:
    write_repository([exported], "tiny", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NinEdgeError, match=words):
        write_repository([change(exported)], "tiny", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_model_in_the_repository_is_one_of_other_outputs(
    exported: ExportedModel, tmp_path: Path
) -> None:
    write_repository([exported], "tiny", tmp_path)
    (tmp_path / "tiny-fp32" / "1" / "model.onnx").write_bytes(exported.data[:100])
    with pytest.raises(NinEdgeError, match="tiny-fp32: a model of other inputs or outputs"):
        write_repository([exported], "tiny", tmp_path)


def test_a_full_disk_leaves_no_half_version(
    exported: ExportedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_repository([exported], "tiny", tmp_path)
    before = sorted(tmp_path.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_repository([exported], "tiny", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before

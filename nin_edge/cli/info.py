"""`nin-edge info`: a model's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nin_edge.cli._common import PATH
from nin_edge.text import list_some, shortened

if TYPE_CHECKING:
    from nin_edge_runtime.model_file import Certificate, ModelInfo


_MAX_ROW: Final = 4000  # characters of a line; --json has all of it
_MAX_ITEMS: Final = 100  # labels, versions, rows of a table


@click.command("info", short_help="Print MODEL's metadata and certificate.")
@click.argument("model", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: Path, as_json: bool) -> None:
    """Print MODEL's metadata: labels, input, precision, size, data set, certificate."""
    from nin_edge_runtime import read_model

    data, info = read_model(model)
    if as_json:
        values = {**asdict(info), "certificate": _certificate_json(info.certificate)}
        click.echo(json.dumps({"file": str(model), "bytes": len(data), **values}, indent=2))
        return
    rows = [*_metadata(model, len(data), info), *_certificate(info.certificate)]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        click.echo(f"{name.ljust(width)}  {shortened(text, _MAX_ROW)}")


def _metadata(path: Path, size: int, info: ModelInfo) -> Iterator[tuple[str, str]]:
    """The metadata but for the certificate: names and texts."""
    steps, architecture = info.preprocessing, info.architecture
    graph_input = {
        "full": "RGB uint8 of any size; crop, resize and normalisation are in the file",
        "normalize": f"RGB uint8 {steps.size} x {steps.size}; normalisation is in the file",
        "none": f"float32 {steps.channels} x {steps.size} x {steps.size}, normalised",
    }[info.embedded]
    rows = {
        "file": f"{path}, {size:,} bytes, format {info.format_version}",
        "network": f"{architecture.get('preset')} at width {architecture.get('width')}, "
        f"{info.precision}, {info.parameters:,} parameters, "
        f"{info.multiply_adds / 1e6:,.1f} million multiply-adds",
        "head": "fully connected layer; its class maps are 1 x 1"
        if architecture.get("head") == "fc"
        else "global average pooling of the class maps",
        "labels": f"{len(info.labels)}: {list_some(info.labels, _MAX_ITEMS)}",
        "input": graph_input,
        "network sees": f"centre square at {steps.size} x {steps.size}, "
        f"{'RGB' if steps.channels == 3 else 'luma'}",
        "normalisation": f"mean {_numbers(steps.mean)}, std {_numbers(steps.std)}, of 0 to 1",
        "layers": f"{_layers(architecture)} at width 1, "
        f"kernels {architecture.get('kernels')}, "
        f"{'with' if architecture.get('batch_norm') else 'without'} batch normalisation",
        "engines": _engines(info.engines),
        "temperature": f"{info.temperature:.4g}",
        "golden samples": f"{len(info.golden.images)}, formula {info.golden.formula}; "
        "`nin-edge verify` replays them",
        "data": f"{info.data.get('name')} (licence: {info.data.get('licence')})",
        "versions": list_some(
            [f"{name} {value}" for name, value in info.versions.items()], _MAX_ITEMS
        ),
        "sha256": f"{info.sha256} (checked)",
    }
    yield from rows.items()


def _engines(names: Sequence[str] | None) -> str:
    """What runs the graph as it is."""
    if names is None:
        return "ONNX Runtime; the file names no others"
    others = list_some(names, _MAX_ITEMS) or "no other: all failed or gave wrong probabilities"
    return f"ONNX Runtime; {others}"


def _layers(architecture: Mapping[str, Any]) -> str:
    blocks = architecture.get("blocks")
    if architecture.get("block") == "linear" and blocks:
        return f"plain convolutions, channels {[first for first, *_ in blocks]}"
    return f"mlpconv blocks, channels {blocks}"


def _certificate_json(certificate: Certificate) -> dict[str, Any]:
    """The certificate, and the 95% interval of its accuracy, which a file does not store."""
    from nin_edge.metrics import wilson_interval

    parts, accuracy = certificate.to_json(), certificate.accuracy
    # A stranger's file may have any numbers.
    if accuracy and accuracy.images and 0 <= accuracy.top1 <= 1:
        correct = round(accuracy.top1 * accuracy.images)
        interval = wilson_interval(correct, accuracy.images)
        parts["accuracy"]["top1_interval"] = list(interval)
    return parts


def _certificate(certificate: Certificate) -> Iterator[tuple[str, str]]:
    """Each part of the certificate on a line, each row of a table in it on one more."""
    for name, value in _certificate_json(certificate).items():
        if not isinstance(value, dict):
            yield f"certificate {_words(name)}", _shown(value)
            continue
        fields = [(key, item) for key, item in value.items() if not _is_table(item)]
        yield f"certificate {_words(name)}", _fields(fields)
        for table in filter(_is_table, value.values()):
            for row in table[:_MAX_ITEMS]:
                first, *others = row.items()
                yield f"certificate {_fields([first])}", _fields(others)
            if len(table) > _MAX_ITEMS:
                yield f"certificate {_words(name)}", f"{len(table) - _MAX_ITEMS:,} rows more"


def _is_table(value: Any) -> bool:
    """Whether a value is a list of objects, each with something in it."""
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(row, dict) and row for row in value)
    )


def _fields(fields: Sequence[tuple[str, Any]]) -> str:
    return "; ".join(f"{_words(key)} {_shown(item, key)}" for key, item in fields)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _words(key: str) -> str:
    return key.replace("top1_interval", "95% interval").replace("_", " ").replace("top1", "top-1")


def _shown(value: Any, key: str = "") -> str:
    """A value of the certificate as text: shares as percentages, others with four digits."""
    if isinstance(value, float):
        return f"{value:.2%}" if "top1" in key or key == "coverage" else f"{value:.4g}"
    if key.endswith("_interval"):
        return f"{value[0]:.2%} to {value[1]:.2%}"
    if isinstance(value, list):
        return list_some(list(map(str, value)), _MAX_ITEMS) or "none"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

"""The top of the report's page: the verdict, and the table of the files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from nin_edge.metrics import BINS
from nin_edge.page import cell, row, section, table, text
from nin_edge.text import accuracy
from nin_edge_export.report.figures import FileFigures, Report
from nin_edge_export.report.missing import HOW
from nin_edge_runtime.model_file import NOT_MEASURED
from nin_edge_runtime.model_file.certificate import Agreement

_Cell: TypeAlias = Callable[[FileFigures, FileFigures | None], str]
"""A file's cell of one row, beside fp32's figures if that was exported."""


def head(report: Report) -> str:
    """The title, the verdict, and what the network is."""
    info = report.files[0].info
    size = info.preprocessing.size
    network = (
        f"A Network-in-Network of {info.parameters:,} parameters and {info.multiply_adds:,} "
        f"multiply-adds for {len(info.labels)} classes, {size} by {size} pixels, trained on "
        f"{text(str(info.data['name']))}."
    )
    return (
        f"<header>\n<h1>{text(report.name)}</h1>\n"
        f'<p class="lead">{_verdict(report)}</p>\n<p class="muted">{network}</p>\n</header>'
    )


def _verdict(report: Report) -> str:
    """The report in two sentences: the last file against the first."""
    first, last = report.files[0], report.files[-1]
    precision, images = last.info.precision, last.info.certificate.images
    parts = []
    if first is not last:
        parts.append(
            f"<strong>{precision}</strong> has {last.size / first.size:.0%} of the size of "
            f"{first.info.precision} and takes {last.latency_ms / first.latency_ms:.0%} of its "
            "time."
        )
    if images and last.scores:
        parts.append(
            f"On {images.count:,} images {precision} has an accuracy of "
            f"{accuracy(last.scores.top1, last.scores.top1_interval)} and a top-1 agreement with "
            f"PyTorch of {images.top1_agreement:.2%}."
        )
    else:
        parts.append(f"Accuracy was {NOT_MEASURED} for these files: {HOW}.")
    return " ".join(parts)


def files(report: Report) -> str:
    """The table of files."""
    fp32 = report.fp32
    rows = "\n".join(
        row(name, (make(file, fp32) for file in report.files)) for name, make in _ROWS.items()
    )
    heads = [file.info.precision for file in report.files]
    return section("The files", table("", heads, rows, _caption(report)))


def _size(file: FileFigures, fp32: FileFigures | None) -> str:
    note = _relative(file.size, fp32.size) if fp32 and file is not fp32 else ""
    return cell(f"{file.size:,}{note}")


def _latency(file: FileFigures, fp32: FileFigures | None) -> str:
    note = _relative(file.latency_ms, fp32.latency_ms) if fp32 and file is not fp32 else ""
    return cell(f"{file.latency_ms:.2f} ms{note}")


def _relative(part: float, whole: float) -> str:
    return f"<small>{part / whole:.0%} of fp32</small>"


def _accuracy(file: FileFigures, fp32: FileFigures | None) -> str:
    if not file.scores:
        return cell(None)
    low, high = file.scores.top1_interval
    return cell(f"{file.scores.top1:.2%}<small>95% interval {low:.2%} to {high:.2%}</small>")


def _agreement(file: FileFigures, fp32: FileFigures | None) -> str:
    images = file.info.certificate.images
    return cell(f"{images.top1_agreement:.2%}" if images else None)


def _difference(file: FileFigures, fp32: FileFigures | None) -> str:
    return _difference_cell(file.info.certificate.images)


def _golden(file: FileFigures, fp32: FileFigures | None) -> str:
    return _difference_cell(file.info.certificate.golden)


def _difference_cell(agreement: Agreement | None) -> str:
    return cell(f"{agreement.max_abs_difference:.2g}" if agreement else None)


def _error_before(file: FileFigures, fp32: FileFigures | None) -> str:
    if file.scores and not file.uncalibrated:
        return cell("no temperature")
    return cell(f"{file.uncalibrated.error:.2%}" if file.uncalibrated else None)


def _error_after(file: FileFigures, fp32: FileFigures | None) -> str:
    return cell(f"{file.scores.ece:.2%}" if file.scores else None)


def _float_layers(file: FileFigures, fp32: FileFigures | None) -> str:
    return cell(str(len(file.info.certificate.float_layers)))


_ROWS: Final[dict[str, _Cell]] = {
    "Size, bytes": _size,
    "Latency, median": _latency,
    "Accuracy (top-1)": _accuracy,
    "Top-1 agreement with PyTorch": _agreement,
    "Largest difference from PyTorch": _difference,
    "… on golden samples": _golden,
    "Calibration error before": _error_before,
    "Calibration error after": _error_after,
    "Convolutions in fp32": _float_layers,
}


def _caption(report: Report) -> str:
    machine, golden = report.machine, report.files[0].info.golden
    batch = "one image" if machine.images == 1 else f"the fixed batch of {machine.images:,} images"
    measured = (
        f"Accuracy, agreement and expected calibration error (in {BINS} bins, before and after the "
        f"temperature): on {text(report.data)}. "
        if report.data
        else f"What was {NOT_MEASURED} needs images: {HOW}. "
    )
    ms = report.latency_target_ms
    target = f" The network's width was chosen for {ms:g} ms in int8." if ms else ""
    return (
        f"{measured}Differences are of probabilities, 0 to 1; golden samples are "
        f"{len(golden.images)} synthetic images. Latency: {batch} a run, one thread of "
        f"{text(machine.cpu)}, ONNX Runtime {text(machine.onnxruntime)}, "
        f"{machine.rounds:,} interleaved rounds of {machine.calls} runs.{target}"
    )

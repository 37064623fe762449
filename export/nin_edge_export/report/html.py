"""The report as a page: one HTML file with its pictures in it, which loads and runs nothing."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from string import Template
from typing import Any, Final

from nin_edge import __version__, plots
from nin_edge.metrics import BINS
from nin_edge.text import printable
from nin_edge_export.certify import BY_FILE, FITTED_HERE, NOT_MEASURED
from nin_edge_export.report.figures import Disagreement, FileFigures, Report

_HOW: Final = "export again with <code>--eval-data DATA</code>, a folder or archive of images"

_PAGE: Final = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")

_STYLE: Final = """
:root {
  --ink: #1f2328; --muted: #59636e; --line: #d1d9e0; --paper: #ffffff; --card: #f6f8fa;
  --accent: #0969da; --warm: #bc4c00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6edf3; --muted: #9198a1; --line: #3d444d; --paper: #0d1117; --card: #151b23;
    --accent: #58a6ff; --warm: #f0883e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0 1rem; }
.lead { font-size: 1.15rem; }
.muted, figcaption, caption, footer { color: var(--muted); }
figcaption, caption, footer, small { font-size: .875rem; }
code { font: .9em ui-monospace, monospace; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .75rem; }
th, td {
  padding: .5rem .6rem; text-align: right; vertical-align: top; overflow-wrap: normal;
  border-bottom: 1px solid var(--line);
}
th:first-child { text-align: left; padding-left: 0; font-weight: 400; }
thead th { font-weight: 600; border-bottom: 2px solid var(--line); }
td small { display: block; color: var(--muted); }
.not { color: var(--muted); font-style: italic; }
.row {
  display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
}
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
.row figure svg { max-width: 24rem; }
.one, details { max-width: 40rem; }
details { border-top: 1px solid var(--line); margin-top: .75rem; padding-top: .75rem; }
summary { cursor: pointer; font-weight: 600; }
.pictures {
  list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr));
}
.pictures li {
  display: flex; gap: .9rem; padding: .75rem; background: var(--card); border-radius: .5rem;
}
.pictures img {
  flex: none; width: 6rem; height: 6rem; border-radius: .25rem; image-rendering: pixelated;
}
.pictures dl {
  display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; margin: 0; align-content: start;
}
dt { color: var(--muted); font-size: .875rem; line-height: 1.6rem; }
dd { margin: 0; line-height: 1.6rem; }
.pictures small { color: var(--muted); }
section > dl dd { margin-bottom: .6rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
@media (max-width: 30rem) {
  th, td { padding: .4rem .25rem; font-size: .875rem; }
}
@media print { details { break-inside: avoid; } }
"""


def to_html(report: Report) -> bytes:
    """The report as one HTML file: no network, no script, light and dark, for any screen."""
    sections = (
        *(_head, _files, _calibration, _thresholds, _confusion),
        *(_int8, _disagreements, _how),
    )
    return _PAGE.substitute(
        title=f"{_text(report.name)}: export report",
        style=_STYLE,
        body="\n".join(part for section in sections if (part := section(report))),
    ).encode("utf-8")


def _head(report: Report) -> str:
    info = report.files[0].info
    size = info.preprocessing.size
    what = (
        f"A Network-in-Network of {info.parameters:,} parameters and {info.multiply_adds:,} "
        f"multiply-adds for {len(info.labels)} classes, {size} by {size} pixels, trained on "
        f"{_text(str(info.data['name']))}."
    )
    return (
        f"<header>\n<h1>{_text(report.name)}</h1>\n"
        f'<p class="lead">{_verdict(report)}</p>\n<p class="muted">{what}</p>\n</header>'
    )


def _verdict(report: Report) -> str:
    """The report in two sentences: the last file against the first."""
    first, last = report.files[0], report.files[-1]
    precision = last.info.precision
    parts = []
    if first is not last:
        faster = first.latency_ms / last.latency_ms
        parts.append(
            f"<strong>{precision}</strong> has {last.size / first.size:.0%} of the size of "
            f"{first.info.precision} and takes {1 / faster:.0%} of its time."
        )
    if last.images and last.scores:
        parts.append(
            f"On {last.images.count:,} test images {precision} is right on "
            f"{last.scores.top1:.2%}, and answers as PyTorch does on "
            f"{last.images.top1_agreement:.2%}."
        )
    else:
        parts.append(f"Accuracy was {NOT_MEASURED} for these files: {_HOW}.")
    return " ".join(parts)


def _files(report: Report) -> str:
    fp32 = report.fp32
    rows = "\n".join(
        f'<tr><th scope="row">{name}</th>{"".join(cell(file, fp32) for file in report.files)}</tr>'
        for name, cell in _ROWS.items()
    )
    heads = [file.info.precision for file in report.files]
    return _section("The files", _table("", heads, rows, _caption(report)))


def _size(file: FileFigures, fp32: FileFigures | None) -> str:
    note = _relative(file.size, fp32.size) if fp32 and file is not fp32 else ""
    return _cell(f"{file.size:,}{note}")


def _latency(file: FileFigures, fp32: FileFigures | None) -> str:
    note = _relative(file.latency_ms, fp32.latency_ms) if fp32 and file is not fp32 else ""
    return _cell(f"{file.latency_ms:.2f} ms{note}")


def _accuracy(file: FileFigures, fp32: FileFigures | None) -> str:
    return _cell(f"{file.scores.top1:.2%}" if file.scores else None)


def _agreement(file: FileFigures, fp32: FileFigures | None) -> str:
    return _cell(f"{file.images.top1_agreement:.2%}" if file.images else None)


def _difference(file: FileFigures, fp32: FileFigures | None) -> str:
    return _cell(f"{file.images.max_abs_difference:.2g}" if file.images else None)


def _golden(file: FileFigures, fp32: FileFigures | None) -> str:
    return _cell(f"{file.golden.max_abs_difference:.2g}")


def _error_before(file: FileFigures, fp32: FileFigures | None) -> str:
    if file.scores and not file.before:
        return _cell("no temperature")
    return _cell(f"{file.before.error:.2%}" if file.before else None)


def _error_after(file: FileFigures, fp32: FileFigures | None) -> str:
    return _cell(f"{file.scores.ece:.2%}" if file.scores else None)


def _float_layers(file: FileFigures, fp32: FileFigures | None) -> str:
    return _cell(str(len(file.info.certificate["float_layers"])))


_ROWS: Final = {
    "Size, bytes": _size,
    "Latency, median": _latency,
    "Accuracy (top-1)": _accuracy,
    "Same answer as PyTorch": _agreement,
    "Largest difference from PyTorch": _difference,
    "… on golden samples": _golden,
    "Calibration error before": _error_before,
    "Calibration error after": _error_after,
    "Convolutions in fp32": _float_layers,
}
"""The rows of the table of files: what each makes of a file, beside fp32's if that was exported."""


def _cell(text: str | None) -> str:
    return f'<td class="not">{NOT_MEASURED}</td>' if text is None else f"<td>{text}</td>"


def _relative(part: float, whole: float) -> str:
    return f"<small>{part / whole:.0%} of fp32</small>"


def _caption(report: Report) -> str:
    machine, golden = report.machine, report.files[0].golden
    batch = "one image" if machine.images == 1 else f"the fixed batch of {machine.images:,} images"
    measured = (
        f"Accuracy, agreement and expected calibration error (in {BINS} bins, before and after the "
        f"temperature): the test images of {_text(report.data)}. "
        if report.data
        else f"What was {NOT_MEASURED} needs images: {_HOW}. "
    )
    return (
        f"{measured}Differences are of probabilities, 0 to 1; golden samples are {golden.count} "
        f"synthetic images. Latency: {batch} a call, one thread of {_text(machine.cpu)}, "
        f"ONNX Runtime {_text(machine.onnxruntime)}, {machine.rounds:,} interleaved rounds of "
        f"{machine.calls} calls."
    )


def _calibration(report: Report) -> str:
    title = "Calibration: can the scores be trusted?"
    figures = []
    for file in report.files:
        if not file.scores:
            return _section(title, _missing("The calibration curve"))
        after = file.scores.calibration
        errors = f"{after.error:.2%}"
        if file.before:
            errors = f"{file.before.error:.2%} before, {errors} after"
        precision = file.info.precision
        svg = plots.to_svg(
            plots.calibration_figure(after, file.before, bins_of=file.scores.count),
            f"Accuracy by confidence of the {precision} file; expected calibration error {errors}",
            f"calibration-{precision}",
        )
        figures.append(_figure(svg, f"<strong>{precision}</strong>: expected error {errors}"))
    temperature = report.files[0].info.temperature
    note = (
        f"One temperature, {temperature:.3g}, divides the logits: before and after it. "
        if temperature != 1
        else "No temperature was fitted. "
    )
    return _section(
        title,
        "<p>Of the answers given with a confidence of 80%, 80% should be right: then the curve "
        f"lies on the dotted line. {note}Below, the share of the answers in each bin.</p>\n"
        f'<div class="row">{"".join(figures)}</div>',
    )


def _thresholds(report: Report) -> str:
    title = "Which score to ask for?"
    parts = [file.info.certificate["thresholds"] for file in report.files]
    heads = [file.info.precision for file in report.files]
    if NOT_MEASURED in parts:
        return _section(title, _missing("What a <code>--min-score</code> gives"))
    about = parts[0]
    if about["measured_with"] != BY_FILE:  # training's figures, the same for every file
        parts, heads = parts[:1], [about["measured_with"]]
    rows = "\n".join(
        f'<tr><th scope="row">{row[0]["min_score"]:g}</th>{"".join(map(_answered, row))}</tr>'
        for row in zip(*(part["answers"] for part in parts), strict=True)
    )
    fitted = ", on which the temperature was fitted" if about["temperature"] == FITTED_HERE else ""
    caption = (
        f"Measured on the {about['images']:,} held-out images of {_text(about['data'])}{fitted}; "
        "<code>nin-edge eval</code> measures the test images in the same way."
    )
    return _section(
        title,
        "<p>Below <code>--min-score</code> an image counts as unknown. The share of images that "
        "are answered, and how many of those answers are right.</p>\n"
        + _table("--min-score", heads, rows, caption),
    )


def _answered(row: Mapping[str, Any]) -> str:
    top1 = "none" if row["top1"] is None else f"{row['top1']:.2%} right"
    return _cell(f"{row['coverage']:.2%}<small>{top1}</small>")


def _confusion(report: Report) -> str:
    title = "Confusion matrix"
    parts: list[str] = []
    for file in reversed(report.files):  # the least precise is the one to look at
        if not file.scores:
            return _section(title, _missing("The confusion matrix"))
        precision = file.info.precision
        svg = plots.to_svg(
            plots.confusion_figure([printable(v) for v in file.info.labels], file.scores.confusion),
            f"Confusion matrix of the {precision} file, {file.scores.top1:.2%} on its diagonal",
            f"confusion-{precision}",
        )
        figure = _figure(
            svg,
            f"<strong>{precision}</strong>: {file.scores.count:,} images by their class (row) and "
            "the file's answer (column); darker is a larger share of the row.",
            "one",
        )
        parts.append(
            f"<details><summary>{precision}</summary>{figure}</details>" if parts else figure
        )
    return _section(title, "\n".join(parts))


def _int8(report: Report) -> str:
    if all(file.info.precision != "int8" for file in report.files):
        return ""
    title = "What int8 costs, layer by layer"
    plan = report.int8
    if plan is None:
        return _section(title, _missing("The sensitivity of each convolution"))
    svg = plots.to_svg(
        plots.sensitivity_figure(plan.sensitivity, plan.keep_float),
        "Sensitivity of each convolution to int8: "
        + ", ".join(f"{name} {value:.2g}" for name, value in plan.sensitivity.items()),
        "sensitivity",
    )
    caption = (
        "Each convolution alone in int8: mean Kullback-Leibler divergence of the answers from "
        "fp32's on the hold-out."
    )
    return _section(title, f"<p>{_budget(report)}</p>\n{_figure(svg, caption, 'one')}")


def _budget(report: Report) -> str:
    """What was decided, and what it costs."""
    assert report.int8 is not None
    kept, figures = report.int8.keep_float, report.int8.figures
    budget = figures["max_drop_points"]
    drop = figures["drop_points"]
    text = (
        f"On the {figures['holdout_images']:,} held-out images int8 "
        f"{'gains' if drop < 0 else 'loses'} {abs(drop):.2f} percentage points of accuracy"
        + (f"; {budget:g} may be lost. " if budget is not None else "; no limit was set. ")
    )
    if not kept:
        return f"{text}Every convolution is in int8."
    names = ", ".join(f"<code>{_text(name)}</code>" for name in kept)
    text += f"To keep within that, {names} stayed in float."
    latency = next(f.latency_ms for f in report.files if f.info.precision == "int8")
    if report.all_int8_ms is not None:
        text += (
            f" That costs {latency - report.all_int8_ms:.2f} ms a call: {latency:.2f} ms, against "
            f"{report.all_int8_ms:.2f} ms with every convolution in int8."
        )
    return text


def _disagreements(report: Report) -> str:
    title = "The worst disagreements with PyTorch"
    found = report.disagreements
    if found is None:
        return _section(title, _missing("Where the files answer otherwise than PyTorch"))
    if not found.count:
        return _section(title, f"<p>None: {found.precision} gives the same answer everywhere.</p>")
    shown = f", the {len(found.worst)} worst of them here" if found.count > len(found.worst) else ""
    return _section(
        title,
        f"<p>{found.precision} and PyTorch answer differently on {found.count:,} test "
        f"image{'s' if found.count > 1 else ''}{shown}. Each as the network sees it, "
        "the right answer in bold, and how far the probabilities are apart at most.</p>\n"
        f'<ul class="pictures">\n{"".join(_picture(item, found.precision) for item in found.worst)}'
        "</ul>",
    )


def _picture(item: Disagreement, precision: str) -> str:
    data = base64.b64encode(item.png).decode("ascii")

    def answer(label: str, probability: float) -> str:
        text = f"{_text(label)} {probability:.0%}"
        return f"<strong>{text}</strong>" if label == item.label else text

    rows = [
        ("class", _text(item.label)),
        ("PyTorch", answer(item.pytorch, item.pytorch_probability)),
        (precision, answer(item.file, item.file_probability)),
        ("apart", f"{item.difference:.3f}"),
    ]
    return (
        f'<li><img src="data:image/png;base64,{data}" alt="{_text(item.label)}">'
        f"<div>{_terms(rows)}<small>{_text(item.image)}</small></div></li>\n"
    )


def _how(report: Report) -> str:
    machine, info = report.machine, report.files[0].info
    versions = ", ".join(
        f"{_text(name)} {_text(str(version))}"
        for name, version in info.versions.items()
        if name != "processor"
    )
    trained = NOT_MEASURED
    if "test_top1" in report.trained:
        images = f"{report.trained['test_images']:,.0f}"
        trained = f"{report.trained['test_top1']:.2%} on {images} test images"
    rows = [
        ("Machine", f"{_text(machine.cpu)} ({_text(machine.processor)})"),
        ("PyTorch's accuracy after training", trained),
        ("Versions", versions),
        *(
            (f"{file.info.precision}, SHA-256", f"<code>{_text(file.info.sha256)}</code>")
            for file in report.files
        ),
    ]
    return (
        _section("How it was made", _terms(rows))
        + f"\n<footer>Made by nin-edge {__version__}; the same figures as numbers are in "
        "<code>report.json</code>.</footer>"
    )


def _terms(rows: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in rows)}</dl>"


def _table(corner: str, heads: Iterable[str], rows: str, caption: str) -> str:
    columns = "".join(f'<th scope="col">{_text(head)}</th>' for head in (corner, *heads))
    return (
        f'<div class="wide"><table>\n<caption>{caption}</caption>\n'
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def _figure(svg: str, caption: str, kind: str = "") -> str:
    return f'<figure class="{kind}">{svg}<figcaption>{caption}</figcaption></figure>'


def _missing(what: str) -> str:
    return f'<p class="not">{what}: {NOT_MEASURED}. To get it, {_HOW}.</p>'


def _text(text: str) -> str:
    """Text from wherever, as HTML that shows it."""
    return html.escape(printable(text))

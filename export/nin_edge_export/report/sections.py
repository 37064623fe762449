"""The sections of the report's page below the table of files, in their order."""

from __future__ import annotations

from nin_edge import plots
from nin_edge._version import __version__
from nin_edge.page import cell, figure, picture, pictures, row, section, table, terms, text
from nin_edge.text import accuracy, printable
from nin_edge_export.report.figures import Disagreement, Report
from nin_edge_export.report.missing import missing
from nin_edge_runtime.model_file import NOT_MEASURED
from nin_edge_runtime.model_file.certificate import BY_FILE, FITTED_HERE, Threshold


def calibration(report: Report) -> str:
    """Accuracy by confidence, before and after the temperature."""
    title = "Calibration: can the scores be trusted?"
    figures = []
    for file in report.files:
        if not file.scores:
            return section(title, missing("The calibration curve"))
        after, before = file.scores.calibration, file.uncalibrated
        errors = f"{after.error:.2%}"
        if before:
            errors = f"{before.error:.2%} before, {errors} after"
        precision = file.info.precision
        svg = plots.to_svg(
            plots.calibration_figure(after, before, bins_of=file.scores.count),
            f"Accuracy by confidence of the {precision} file; expected calibration error {errors}",
            f"calibration-{precision}",
        )
        figures.append(figure(svg, f"<strong>{precision}</strong>: expected error {errors}"))
    temperature = report.files[0].info.temperature
    note = (
        f"One temperature, {temperature:.3g}, divides the logits: before and after it. "
        if temperature != 1
        else "No temperature was fitted. "
    )
    return section(
        title,
        "<p>Of the predictions with a confidence of 80%, 80% should be correct: then the curve "
        f"lies on the dotted line. {note}Below, the share of predictions in each bin.</p>\n"
        f'<div class="row">{"".join(figures)}</div>',
    )


def thresholds(report: Report) -> str:
    """Coverage and accuracy by `--min-score`."""
    title = "Which score to ask for?"
    parts = []
    for file in report.files:
        part = file.info.certificate.thresholds
        if part is None:
            return section(title, missing("What a <code>--min-score</code> gives"))
        parts.append(part)
    heads = [file.info.precision for file in report.files]
    first = parts[0]
    if first.measured_with != BY_FILE:  # training's figures, the same for every file
        parts, heads = parts[:1], [first.measured_with]
    rows = "\n".join(
        row(f"{files[0].min_score:g}", map(_coverage, files))
        for files in zip(*(part.answers for part in parts), strict=True)
    )
    fitted = ", on which the temperature was fitted" if first.temperature == FITTED_HERE else ""
    caption = (
        f"Measured on the {first.images:,} held-out images of {text(first.data)}{fitted}; "
        "<code>nin-edge eval</code> measures the test images in the same way."
    )
    return section(
        title,
        "<p>Below <code>--min-score</code> an image counts as unknown. The share of images that "
        "reach it, and the accuracy on these.</p>\n" + table("--min-score", heads, rows, caption),
    )


def _coverage(threshold: Threshold) -> str:
    top1 = "none" if threshold.top1 is None else f"{threshold.top1:.2%} correct"
    return cell(f"{threshold.coverage:.2%}<small>{top1}</small>")


def confusion(report: Report) -> str:
    """The confusion matrices; only the last file's is open."""
    title = "Confusion matrix"
    parts: list[str] = []
    for file in reversed(report.files):  # the least precise is the one to look at
        if not file.scores:
            return section(title, missing("The confusion matrix"))
        precision = file.info.precision
        svg = plots.to_svg(
            plots.confusion_figure(list(map(printable, file.info.labels)), file.scores.confusion),
            f"Confusion matrix of the {precision} file, {file.scores.top1:.2%} on its diagonal",
            f"confusion-{precision}",
        )
        matrix = figure(
            svg,
            f"<strong>{precision}</strong>: {file.scores.count:,} images by their class (row) and "
            "the file's prediction (column); darker is a larger share of the row.",
            "one",
        )
        parts.append(
            f"<details><summary>{precision}</summary>{matrix}</details>" if parts else matrix
        )
    return section(title, "\n".join(parts))


def int8(report: Report) -> str:
    """The sensitivity of each convolution, and what the budget decided; empty without int8."""
    if all(file.info.precision != "int8" for file in report.files):
        return ""
    title = "What int8 costs, layer by layer"
    plan = report.int8
    if plan is None:
        return section(title, missing("The sensitivity of each convolution"))
    svg = plots.to_svg(
        plots.sensitivity_figure(plan.sensitivity, plan.keep_float),
        "Sensitivity of each convolution to int8: "
        + ", ".join(f"{name} {value:.2g}" for name, value in plan.sensitivity.items()),
        "sensitivity",
    )
    caption = (
        "Each convolution alone in int8: mean Kullback-Leibler divergence of the probabilities "
        "from fp32's on the hold-out."
    )
    return section(title, f"<p>{_budget(report)}</p>\n{figure(svg, caption, 'one')}")


def _budget(report: Report) -> str:
    """What was decided, and what it costs."""
    assert report.int8 is not None
    kept, budget = report.int8.keep_float, report.int8.budget
    change = "gains" if budget.drop_points < 0 else "loses"
    sentences = (
        f"On the {budget.holdout_images:,} held-out images int8 {change} "
        f"{abs(budget.drop_points):.2f} percentage points of accuracy; "
    )
    if budget.max_drop_points is None:
        sentences += "no limit was set. "
    else:
        sentences += f"{budget.max_drop_points:g} may be lost. "
    if not kept:
        return f"{sentences}Every convolution is in int8."
    names = ", ".join(f"<code>{text(name)}</code>" for name in kept)
    sentences += f"To keep within that, {names} stayed in float."
    latency = next(f.latency_ms for f in report.files if f.info.precision == "int8")
    if report.all_int8_ms is not None:
        sentences += (
            f" That costs {latency - report.all_int8_ms:.2f} ms a run: {latency:.2f} ms, against "
            f"{report.all_int8_ms:.2f} ms with every convolution in int8."
        )
    return sentences


def disagreements(report: Report) -> str:
    """The images for which the last file predicts another class than PyTorch."""
    title = "The worst disagreements with PyTorch"
    if report.disagreements is None:
        return section(title, missing("Where the files and PyTorch predict different classes"))
    precision, count = report.disagreements.precision, report.disagreements.count
    worst = report.disagreements.worst
    if not count:
        return section(title, f"<p>None: {precision} predicts the same class for every image.</p>")
    shown = f", the {len(worst)} worst of them here" if count > len(worst) else ""
    return section(
        title,
        f"<p>{precision} and PyTorch predict different classes for {count:,} "
        f"image{'s' if count > 1 else ''}{shown}. Each is shown as the network sees it, "
        "with the correct class in bold and the largest difference of a probability.</p>\n"
        + pictures(_picture(item, precision) for item in worst),
    )


def _picture(item: Disagreement, precision: str) -> str:
    def prediction(label: str, probability: float) -> str:
        shown = f"{text(label)} {probability:.0%}"
        return f"<strong>{shown}</strong>" if label == item.label else shown

    rows = [
        ("class", text(item.label)),
        ("PyTorch", prediction(item.pytorch, item.pytorch_probability)),
        (precision, prediction(item.file, item.file_probability)),
        ("apart", f"{item.difference:.3f}"),
    ]
    return picture(item.png, item.label, rows, item.image)


def provenance(report: Report) -> str:
    """Machine, versions and digests, and the page's foot."""
    machine, info = report.machine, report.files[0].info
    versions = ", ".join(
        f"{text(name)} {text(str(version))}"
        for name, version in info.versions.items()
        if name != "processor"
    )
    test, trained = report.trained.test, NOT_MEASURED
    if test and test.images:
        trained = f"{accuracy(test.top1, test.interval)} on {test.images:,} test images"
    rows = [
        ("Machine", f"{text(machine.cpu)} ({text(machine.processor)})"),
        ("PyTorch's accuracy after training", trained),
        ("Versions", versions),
        *(
            (f"{file.info.precision}, SHA-256", f"<code>{text(file.info.sha256)}</code>")
            for file in report.files
        ),
    ]
    return (
        section("How it was made", terms(rows))
        + f"\n<footer>Made by nin-edge {__version__}; the same figures as numbers are in "
        f"<code>{text(report.name)}.report.json</code>.</footer>"
    )

"""A comparison as a page: one HTML file with its pictures in it, which loads and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from nin_edge._version import __version__
from nin_edge.comparison.comparison import Change, Comparison
from nin_edge.page import cell, picture, pictures, row, section, table, text, to_page


def to_html(comparison: Comparison, broken: Sequence[str]) -> bytes:
    """The comparison, and the limits that it breaks, as one HTML file."""
    return to_page(
        f"{text(comparison.new.file)}: comparison",
        (
            _head(comparison, broken),
            _figures(comparison),
            _labels(comparison),
            _changes(comparison),
            f"<footer>Made by nin-edge {__version__}.</footer>",
        ),
    )


def interval(bounds: tuple[float, float]) -> str:
    """A 95% interval in words."""
    return f"{bounds[0]:.2%} to {bounds[1]:.2%}"


def _head(comparison: Comparison, broken: Sequence[str]) -> str:
    verdict = "; ".join(map(text, broken)) + "." if broken else ""
    split = f" ({text(comparison.split)})" if comparison.split else ", which have no labels"
    return (
        f"<header>\n<h1>{text(comparison.new.file)}</h1>\n"
        f'<p class="lead">{f"<strong>Limit broken:</strong> {verdict} " if broken else ""}'
        f"It predicts the same class as {text(comparison.old.file)} for "
        f"{comparison.agreement:.2%} of {comparison.images:,} images of {text(comparison.data)}"
        f"{split}; 95% interval {interval(comparison.agreement_interval)}.</p>\n</header>"
    )


def _figures(comparison: Comparison) -> str:
    old, new, found = comparison.old, comparison.new, comparison.labelled
    accuracies = [cell(None), cell(None)]
    caption = ""
    if found is not None:
        accuracies = [
            cell(f"{found.old_top1:.2%}<small>{interval(found.old_interval)}</small>"),
            cell(f"{found.new_top1:.2%}<small>{interval(found.new_interval)}</small>"),
        ]
        caption = (
            f"Accuracy with its 95% interval. The new model alone is correct for "
            f"{found.corrected:,} images, the old one alone for {found.broken:,}. "
        )
    machine = comparison.machine
    caption += (
        f"Latency: one image on one thread of {text(machine.processor)}, ONNX Runtime "
        f"{text(machine.onnxruntime)}, in interleaved rounds."
    )
    rows = [
        row("Accuracy (top-1)", accuracies),
        row("Latency, median", [cell(f"{one.latency.p50_ms:.3g} ms") for one in (old, new)]),
        row(
            "Latency, 99th percentile", [cell(f"{one.latency.p99_ms:.3g} ms") for one in (old, new)]
        ),
        row("Size, bytes", [cell(f"{one.bytes:,}") for one in (old, new)]),
        row("Precision", [cell(one.precision) for one in (old, new)]),
        row("Input", [cell(f"{one.size} x {one.size}") for one in (old, new)]),
    ]
    return section("The models", table("", ("old", "new"), "\n".join(rows), caption))


def _labels(comparison: Comparison) -> str:
    sentences = [
        f"{title}: {', '.join(map(text, labels))}."
        for title, labels in (("Added", comparison.added), ("Gone", comparison.gone))
        if labels
    ]
    if comparison.reordered:
        sentences.append("The others come in another order, so their indices changed.")
    return section("Labels", f"<p>{' '.join(sentences)}</p>") if sentences else ""


def _changes(comparison: Comparison) -> str:
    title, count = "Changed predictions", len(comparison.changes)
    if not count:
        return section(title, "<p>None.</p>")
    worst = zip(comparison.changes, comparison.pictures, strict=False)
    shown = len(comparison.pictures)
    some = f", the {shown} with the largest difference of them here" if count > shown else ""
    return section(
        title,
        f"<p>{count:,} image{'s' if count > 1 else ''}{some}. Each is shown as the new model sees "
        "it, with the correct class in bold and the largest difference of a probability.</p>\n"
        + pictures(_picture(change, png) for change, png in worst),
    )


def _picture(change: Change, png: bytes) -> str:
    def prediction(label: str, score: float) -> str:
        shown = f"{text(label)} {score:.0%}"
        return f"<strong>{shown}</strong>" if label == change.label else shown

    rows = [
        ("old", prediction(change.old, change.old_score)),
        ("new", prediction(change.new, change.new_score)),
        ("apart", f"{change.difference:.3f}"),
    ]
    if change.label is not None:
        rows.insert(0, ("class", text(change.label)))
    return picture(png, change.label or change.new, rows, change.image)

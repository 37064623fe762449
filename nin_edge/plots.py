"""Pictures of measurements, by matplotlib; drawn without pyplot, so with no window or state.

A function draws a figure, `to_png` or `to_svg` makes a file of it. Text is drawn as it is: `$`
starts no formula. What is not printable has to be escaped first (`text.printable`).
"""

from __future__ import annotations

import html
import io
import re
import textwrap
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from nin_edge.metrics import Calibration, Epoch, best_epoch
from nin_edge_runtime.fonts import find_font

COLOURS: Final = {
    "ink": "#1f2328",
    "muted": "#6e7781",
    "line": "#d1d9e0",
    "paper": "#fffffe",
    "accent": "#0969da",
    "warm": "#bc4c00",
}
"""The colours of all plots. In an SVG each is a CSS variable `--NAME`, which a page can set."""

_INK, _MUTED, _LINE, _PAPER, _ACCENT, _WARM = COLOURS.values()
_NUMBERED: Final = 20  # classes up to which every cell shows its number
_NAMED: Final = 100  # classes up to which every row and column shows its name
_LONGEST: Final = 24  # characters of a name; longer ones would push the matrix off the page
_LONGEST_TITLE: Final = 65  # characters that the narrowest picture has room for
_UNITS: Final = ((1, "nats"), (1e-3, "thousandths of a nat"), (1e-6, "millionths of a nat"))
_FONT: Final = "DejaVu Sans"  # comes with matplotlib
_SMALL: Final = 8  # points; the width of a figure is about a phone's


def confusion_figure(
    labels: Sequence[str], confusion: NDArray[np.int64], title: str | None = None
) -> Figure:
    """A confusion matrix, each cell shaded by its share of the row.

    Args:
        labels: (K,), printable.
        confusion: (K, K), images by true class (row) and predicted class (column).
        title: printable; none if None.
    """
    side = min(max(5.0, 0.36 * len(labels) + 1.4), 30.0)  # inches
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    _draw_confusion(figure.add_subplot(), labels, confusion)
    _add_title(figure, title)
    return figure


def curves_figure(history: Sequence[Epoch], title: str | None = None, *, held_out: int) -> Figure:
    """Training loss, hold-out loss and hold-out accuracy by epoch.

    Args:
        history: at least one epoch.
        title: printable; none if None.
        held_out: number of held-out images; without any, the training loss alone is drawn.
    """
    figure = Figure(figsize=(5, 4.2), dpi=100, layout="constrained")
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    epochs = [row.epoch for row in history]
    best = history[best_epoch(history, held_out)]
    style: dict[str, Any] = {"linewidth": 1.5, "marker": "o", "markersize": 3}
    loss.plot(epochs, [row.loss for row in history], color=_WARM, label="training", **style)
    if best.holdout_top1 is not None:
        losses = [row.holdout_loss for row in history]
        loss.plot(epochs, losses, color=_ACCENT, label="hold-out", **style)
        top1s = [100 * (row.holdout_top1 or 0.0) for row in history]
        accuracy.plot(epochs, top1s, color=_ACCENT, **style)
        top1 = 100 * best.holdout_top1
        accuracy.axhline(top1, color=_MUTED, linestyle=(0, (2, 2)), linewidth=1)
        beside: dict[str, Any] = {"xytext": (0, -10), "textcoords": "offset points", "ha": "right"}
        accuracy.annotate(
            f"{top1:.2f}% in epoch {best.epoch}",
            (epochs[-1], top1),
            color=_INK,
            fontsize=_SMALL,
            **beside,
        )
    loss.legend(frameon=False, labelcolor=_INK, fontsize=_SMALL)
    loss.set_ylabel("loss")
    accuracy.set(xlabel="epoch", ylabel="hold-out top-1, %")
    accuracy.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, accuracy):
        axes.grid(color=_LINE, linewidth=0.5)
        _dress(axes)
    _add_title(figure, title)
    return figure


def calibration_figure(
    after: Calibration, before: Calibration | None = None, *, bins_of: int
) -> Figure:
    """A reliability diagram above the share of the predictions in each bin.

    Args:
        after: with the temperature.
        before: without it; left out if None.
        bins_of: number of all predictions.
    """
    figure = Figure(figsize=(3.4, 3.9), dpi=100, layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    curve.plot([0, 1], [0, 1], color=_MUTED, linestyle=(0, (2, 2)), linewidth=1)
    if before is not None:
        _draw_curve(curve, before, _WARM, "before", marker="o", linestyle=(0, (4, 2)))
    _draw_curve(curve, after, _ACCENT, "after" if before is not None else "the file", marker="s")
    curve.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    curve.legend(frameon=False, labelcolor=_INK, fontsize=_SMALL, loc="upper left")
    bins = len(after.count)
    edges = np.arange(bins) / bins
    counts.bar(edges, after.count / bins_of, width=1 / bins, align="edge", color=_ACCENT, alpha=0.6)
    counts.set(xlabel="confidence", ylabel="share", ylim=(0, 1))
    for axes in (curve, counts):
        _dress(axes)
    return figure


def sensitivity_figure(sensitivity: Mapping[str, float], kept: Collection[str]) -> Figure:
    """A bar for each convolution, in the network's order; those kept in float are marked.

    Args:
        sensitivity: by convolution, divergence of the predictions when it alone is quantised.
        kept: the convolutions that stay in float.
    """
    largest = max([*sensitivity.values(), 1e-6])
    unit, unit_name = next(unit for unit in _UNITS if largest >= unit[0])
    names, values = list(sensitivity), [value / unit for value in sensitivity.values()]
    figure = Figure(figsize=(5, 0.7 + 0.26 * len(names)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    colours = [_WARM if name in kept else _ACCENT for name in names]
    axes.barh(range(len(names)), values, color=colours, height=0.7)
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        note = f"{value:.3g}" + (", in float" if name in kept else "")
        beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(note, (value, place), color=_INK, fontsize=_SMALL, **beside)
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * largest / unit)  # room for the numbers
    axes.set_xlabel(f"divergence from fp32, {unit_name}")
    axes.locator_params(axis="x", nbins=4)
    _dress(axes)
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file on white."""
    _make_drawable(figure)
    return _saved(figure, "png", facecolor="white")


def to_svg(figure: Figure, alt: str, name: str) -> str:
    """A figure as an `<svg>` element for an HTML page, which refers to nothing outside itself.

    Args:
        figure: what to draw.
        alt: what it shows, for people who do not see it.
        name: unique among the figures of the page.
    """
    # Text stays text: small, searchable, and in the page's fonts. The salt makes the ids of
    # shapes that are used several times unique in the page, and the same every time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        text = _saved(figure, "svg", transparent=True, metadata=nothing).decode("utf-8")
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<[^>]*>", _themed, text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)


def _themed(tag: re.Match[str]) -> str:
    """A tag of an SVG without fixed ids and fonts, its colours as variables."""
    text = re.sub(r'<g id="[^"]*"', "<g", tag[0])  # figure_1 is in every file, and used in none
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    text = re.sub(r"font: [^;\"]*?([\d.]+px) [^;\"]*", r"font-size: \1", text)  # matplotlib < 3.9
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    return text


def _saved(figure: Figure, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A character that no font here has is drawn as a box, which shows it well enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format=file_format, **options)
    return buffer.getvalue()


def _make_drawable(figure: Figure) -> None:
    """Draw characters that matplotlib's font lacks in a font of the system.

    Where none has them, classes get their number, with a legend of escapes below the picture. An
    SVG needs neither: its text is drawn in the fonts of its reader.
    """
    ticks: dict[Any, list[str]] = {
        axis: [label.get_text() for label in axis.get_ticklabels()]
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
    }
    texts: list[Any] = figure.findobj(Text)
    words = [*map("".join, ticks.values()), *(text.get_text() for text in texts)]
    lacking = _lacking("".join(words))
    if not lacking:
        return
    path = find_font("".join(sorted(lacking)))
    if path is not None:
        font_manager.fontManager.addfont(path)
        families = [_FONT, font_manager.FontProperties(fname=path).get_name()]
        for text in texts:
            text.set_fontfamily(families)
        for axes in figure.axes:
            axes.tick_params(labelfontfamily=families)
        return
    for text in texts:
        text.set_text(_escaped(text.get_text()))
    legend: dict[int, str] = {}
    for axis, names in ticks.items():
        numbered = {place: name for place, name in enumerate(names) if _lacking(name)}
        if numbered:
            shown = [f"{place}" if place in numbered else name for place, name in enumerate(names)]
            axis.set_ticks(axis.get_ticklocs(), shown, parse_math=False)
            legend |= numbered
    note = ", ".join(f"{place} = {_escaped(name)}" for place, name in legend.items())
    width = int(16 * figure.get_figwidth())  # characters of 7 points in a line
    figure.supxlabel(textwrap.fill(note, width), fontsize=7, color=_INK, parse_math=False)


def _lacking(text: str) -> set[str]:
    """The characters that matplotlib's font lacks."""
    known = font_manager.get_font(font_manager.findfont(_FONT)).get_charmap()
    return {char for char in text if ord(char) not in known and not char.isspace()}


def _escaped(text: str) -> str:
    lacking = _lacking(text)
    return "".join(
        char.encode("unicode_escape").decode() if char in lacking else char for char in text
    )


def _draw_confusion(axes: Axes, labels: Sequence[str], confusion: NDArray[np.int64]) -> None:
    classes = len(labels)
    support = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(support, 1)  # classes without images stay empty
    numbered = classes <= _NUMBERED
    axes.pcolormesh(
        np.arange(classes + 1) - 0.5,
        np.arange(classes + 1) - 0.5,
        shares,
        # From clear to full, so that it suits any background.
        cmap=LinearSegmentedColormap.from_list("shares", [f"{_ACCENT}00", f"{_ACCENT}ff"]),
        vmin=0,
        vmax=1,
        edgecolors=_LINE if numbered else "none",
        linewidth=0.4 if numbered else 0,
        rasterized=not numbered,  # thousands of shapes would be a large file
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    if numbered:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = _PAPER if shares[row, column] > 0.5 else _INK
                centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": _SMALL}
                axes.text(column, row, f"{count}", color=colour, **centred)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if classes <= _NAMED:
        names = [_shortened(label) for label in labels]
        axes.set_xticks(range(classes), names, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), names, parse_math=False)
    _dress(axes)


def _draw_curve(axes: Axes, curve: Calibration, colour: str, label: str, **style: Any) -> None:
    filled = curve.count > 0
    axes.plot(
        *(curve.confidence[filled], curve.accuracy[filled]),
        **{"color": colour, "label": label, "markersize": 4, "linewidth": 1.5, **style},
    )


def _add_title(figure: Figure, title: str | None) -> None:
    if title is not None:
        figure.suptitle(_shortened(title, _LONGEST_TITLE), parse_math=False, fontsize=9, color=_INK)


def _dress(axes: Axes) -> None:
    """Give our colours to what matplotlib draws by itself."""
    axes.set_facecolor("none")
    axes.tick_params(color=_LINE, labelcolor=_INK, labelsize=_SMALL)
    for spine in axes.spines.values():
        spine.set_color(_LINE)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=9)


def _shortened(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"

"""`nin-edge compare`: what replacing a model by another changes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nin_edge.cli._common import PATH, NumberRange, check_file, printable, provider_option
from nin_edge.cli._data import (
    SPLIT_CHOICES,
    explain_split,
    labels_option,
    open_data,
    show_progress,
    show_unreadable,
)

if TYPE_CHECKING:
    from nin_edge.comparison import Comparison, Images
    from nin_edge_runtime import Classifier

_SHOWN: Final = 10  # kinds of changes that are printed, and changed images


@click.command("compare", short_help="Compare model NEW with OLD before it replaces it.")
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.argument("data", type=PATH)
@labels_option
@click.option(
    "--split",
    type=click.Choice(SPLIT_CHOICES),
    help="Images of a labelled data set to compare on, as for nin-edge eval.",
)
@click.option(
    "--min-agreement",
    type=NumberRange(0, 1),
    metavar="SHARE",
    help="Smallest share of images with the same prediction, such as 0.95.",
)
@click.option(
    "--max-drop",
    type=NumberRange(0, 100),
    metavar="POINTS",
    help="Percentage points of accuracy that NEW may lose; needs labels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--html",
    type=PATH,
    metavar="FILE.html",
    help="Write a page with all figures, and pictures of what changed.",
)
@provider_option
def command(
    old: Path,
    new: Path,
    data: Path,
    labels: Path | None,
    split: str | None,
    min_agreement: float | None,
    max_drop: float | None,
    as_json: bool,
    html: Path | None,
    provider: str,
) -> None:
    """Compare model NEW with OLD before it replaces it.

    OLD and NEW are exported models (.onnx). DATA is a labelled data set, as nin-edge eval takes it,
    with the classes of either model; or a folder of photos of which none lies in a folder with a
    label as its name: then agreement is measured, but not accuracy.

    The exit code is 3 if a limit is broken.
    """
    if html is not None:
        check_file("--html", html, ".html")
    from nin_edge.comparison import Limits, compare, to_html
    from nin_edge.files import write_atomically
    from nin_edge_runtime import Classifier, GateError, NinEdgeError

    before = Classifier(old, provider=provider, threads=1)
    after = Classifier(new, provider=provider, threads=1)
    images = _open_images(data, before, after, labels, split)
    if max_drop is not None and images.classes is None:
        raise NinEdgeError(f"{data}: has no labels, and --max-drop is measured with them")
    comparison = compare(before, after, images, progress=show_progress("comparing images"))
    show_unreadable(comparison.unreadable[len(images.unreadable) :])
    broken = comparison.broken(Limits(min_agreement, max_drop))
    if as_json:
        verdict = {"passed": not broken, "broken": broken}
        click.echo(json.dumps({"verdict": verdict} | comparison.to_json(), allow_nan=False))
    else:
        for line in _report(comparison):
            click.echo(printable(line))
        if not broken and (min_agreement, max_drop) != (None, None):
            click.echo("within the limits")
    if html is not None:
        write_atomically(html, to_html(comparison, broken))
        click.echo(f"what changed: {printable(str(html))}", err=True)
    if broken:
        raise GateError(f"{new}: {'; '.join(broken)}")


def _open_images(
    data: Path, old: Classifier, new: Classifier, labels: Path | None, split: str | None
) -> Images:
    """The data set in the size of each model, or a folder's photos."""
    from nin_edge.comparison import has_labels, labelled, unlabelled
    from nin_edge.data import locate

    classes = tuple(dict.fromkeys(old.labels + new.labels))
    location = locate(data, labels=labels)
    if (
        location.path.is_dir()
        and (location.official, labels, split) == (None, None, None)
        and not has_labels(location.path, classes)
    ):
        click.echo(
            f"{printable(str(data))}: no folder in it has a label as its name, so accuracy is not "
            "measured",
            err=True,
        )
        images = unlabelled(data)
        show_unreadable(images.unreadable)
        return images
    steps = [model.info.preprocessing for model in (old, new)]
    first = second = open_data(location, steps[0].size, steps[0].channels, classes)
    if (steps[0].size, steps[0].channels) != (steps[1].size, steps[1].channels):
        from nin_edge.data import open_dataset

        second = open_dataset(
            *(location,),
            size=steps[1].size,
            channels=steps[1].channels,
            classes=classes,
            progress=show_progress("reading images"),
        )
    if split is None:
        explain_split(first)
    return labelled(first, second, split)


def _report(comparison: Comparison) -> Iterator[str]:
    """The figures for people."""
    from nin_edge.comparison.page import interval

    old, new, found = comparison.old, comparison.new, comparison.labelled
    split = f" ({comparison.split})" if comparison.split else ""
    yield (
        f"agreement {comparison.agreement:.2%} (95% interval "
        f"{interval(comparison.agreement_interval)}), {comparison.images:,} images of "
        f"{comparison.data}{split}"
    )
    if found is not None:
        yield (
            f"accuracy {found.old_top1:.2%} ({interval(found.old_interval)}) -> "
            f"{found.new_top1:.2%} ({interval(found.new_interval)}): {found.corrected:,} images "
            f"corrected, {found.broken:,} broken"
        )
    yield (
        f"latency {old.latency.p50_ms:.3g} ms -> {new.latency.p50_ms:.3g} ms (median, p99 "
        f"{old.latency.p99_ms:.3g} -> {new.latency.p99_ms:.3g} ms; one image, one thread), "
        f"{old.bytes:,} -> {new.bytes:,} bytes, {old.precision} -> {new.precision}"
    )
    for title, names in (("added", comparison.added), ("gone", comparison.gone)):
        if names:
            yield f"labels {title}: {', '.join(names)}"
    if comparison.reordered:
        yield "labels in another order: programs that use their indices break"
    kinds = Counter((change.old, change.new) for change in comparison.changes)
    if kinds:
        yield ""
        yield "changed predictions:"
    for (before, after), count in kinds.most_common(_SHOWN):
        yield f"{count:>7,}  {before} -> {after}"
    if len(kinds) > _SHOWN:
        yield f"         and {len(kinds) - _SHOWN:,} more kinds"
    for change in comparison.changes[:_SHOWN]:
        label = f" (class {change.label})" if change.label is not None else ""
        yield (
            f"{change.image}{label}: {change.old} {change.old_score:.1%} -> {change.new} "
            f"{change.new_score:.1%}"
        )

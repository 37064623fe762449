"""Comparing two model files: the same images through both, and their cost side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from nin_edge.comparison.images import Images
from nin_edge.data import Progress
from nin_edge.metrics import wilson_interval
from nin_edge.page import png
from nin_edge.text import without_name
from nin_edge_runtime import Classifier, ImageError, NinEdgeError, Prediction
from nin_edge_runtime.bench import this_machine
from nin_edge_runtime.bench.machine import Machine
from nin_edge_runtime.bench.timing import Timing, time_models
from nin_edge_runtime.threads import usable_threads

PICTURES: Final = 48
"""Most changed images of which the comparison keeps a picture."""

SECONDS: Final = 2.0
"""How long the latency of each model is measured."""

_BATCH: Final = 8  # images of one inference


@dataclass(frozen=True)
class Limits:
    """What a new model may change."""

    min_agreement: float | None = None
    """Smallest share of images with the same prediction, 0 to 1; None for any."""
    max_drop: float | None = None
    """Largest loss of top-1 accuracy, in percentage points; None for any."""


@dataclass(frozen=True)
class Model:
    """One of the two models."""

    file: str
    """Its path."""
    sha256: str
    """SHA-256 in its metadata, in hexadecimal."""
    precision: str
    """`fp32`, `fp16` or `int8`."""
    size: int
    """S, side of its input images, in pixels."""
    bytes: int
    """Size of the file."""
    latency: Timing
    """Of one image on one thread; `ratio` is to the old model."""


@dataclass(frozen=True)
class Labelled:
    """How both models do on labelled images."""

    images: int
    """Number of images, at least 1."""
    old_correct: int
    """Those that the old model classifies correctly."""
    new_correct: int
    """Those that the new model does."""
    corrected: int
    """Those that the new model alone classifies correctly."""
    broken: int
    """Those that the old model alone does."""

    @property
    def old_top1(self) -> float:
        """Accuracy of the old model, 0 to 1."""
        return self.old_correct / self.images

    @property
    def new_top1(self) -> float:
        """Accuracy of the new model, 0 to 1."""
        return self.new_correct / self.images

    @property
    def drop_points(self) -> float:
        """Accuracy that the new model loses, in percentage points; below 0 if it gains."""
        return 100 * (self.old_correct - self.new_correct) / self.images

    @property
    def old_interval(self) -> tuple[float, float]:
        """95% interval of the old model's accuracy."""
        return wilson_interval(self.old_correct, self.images)

    @property
    def new_interval(self) -> tuple[float, float]:
        """95% interval of the new model's accuracy."""
        return wilson_interval(self.new_correct, self.images)


@dataclass(frozen=True)
class Change:
    """One image whose prediction changed."""

    image: str
    """Its name."""
    label: str | None
    """Its class; None without labels."""
    old: str
    """The old model's prediction."""
    old_score: float
    """Its probability, 0 to 1."""
    new: str
    """The new model's prediction."""
    new_score: float
    """Its probability, 0 to 1."""
    difference: float
    """Largest difference of a probability, 0 to 1."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What replacing one model by another changes."""

    old: Model
    """The model in use."""
    new: Model
    """The one to replace it."""
    added: tuple[str, ...]
    """Labels that the new model alone has."""
    gone: tuple[str, ...]
    """Labels that the old model alone has."""
    reordered: bool
    """Whether the labels of both come in another order: programs that use indices break."""
    data: str
    """Name of the data set or folder."""
    split: str | None
    """Which part of the data set; None for a folder of photos."""
    images: int
    """Number of images that both models classified, at least 1."""
    labelled: Labelled | None
    """Accuracy; None without labels."""
    changes: tuple[Change, ...]
    """The images whose prediction changed, the largest difference first."""
    pictures: tuple[bytes, ...]
    """The first of these, at most `PICTURES`, as the new model sees them; PNG files."""
    unreadable: tuple[tuple[str, str], ...]
    """(name, reason) of each image that was left out."""
    machine: Machine
    """Where latency was measured."""

    @property
    def agreement(self) -> float:
        """Share of images with the same prediction, 0 to 1."""
        return (self.images - len(self.changes)) / self.images

    @property
    def agreement_interval(self) -> tuple[float, float]:
        """95% interval of the agreement."""
        return wilson_interval(self.images - len(self.changes), self.images)

    def broken(self, limits: Limits) -> list[str]:
        """Which limits the new model breaks, in words; a drop is measured with labels alone."""
        found = []
        if limits.min_agreement is not None and self.agreement < limits.min_agreement:
            found.append(
                f"agreement is {self.agreement:.2%}, expected at least {limits.min_agreement:.2%}"
            )
        drop = None if self.labelled is None else self.labelled.drop_points
        if limits.max_drop is not None and drop is not None and drop > limits.max_drop:
            found.append(
                f"accuracy drops by {drop:.2f} points, expected at most {limits.max_drop:g}"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """All figures, without the pictures."""
        figures = {
            "old": asdict(self.old),
            "new": asdict(self.new),
            "labels": {"added": self.added, "gone": self.gone, "reordered": self.reordered},
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "agreement": self.agreement,
            "agreement_interval": self.agreement_interval,
            "changed": len(self.changes),
            "changes": [asdict(change) for change in self.changes],
            "unreadable": [list(pair) for pair in self.unreadable],
            "machine": asdict(self.machine),
        }
        found = self.labelled
        if found is None:
            return figures | {"accuracy": None}
        return figures | {
            "accuracy": {
                "old": found.old_top1,
                "old_interval": found.old_interval,
                "new": found.new_top1,
                "new_interval": found.new_interval,
                "drop_points": found.drop_points,
                "corrected": found.corrected,
                "broken": found.broken,
            }
        }


def compare(
    old: Classifier,
    new: Classifier,
    images: Images,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Classify images with two models, and measure their latency in interleaved rounds.

    Args:
        old: the model in use, from a path; one thread.
        new: the one to replace it, from a path; one thread.
        images: what to classify.
        progress: called with the number of images done and the total.

    Raises:
        NinEdgeError: no image can be read.
    """
    tally = _Tally(old.labels, new.labels)
    unreadable = list(images.unreadable)
    for place, (one, other) in enumerate(_predictions(old, new, images)):
        failed = next((each for each in (one, other) if isinstance(each, ImageError)), None)
        if failed is not None:
            source = images.new[place]
            reason = without_name(failed, source) if isinstance(source, Path) else str(failed)
            unreadable.append((images.names[place], reason))
        else:
            assert isinstance(one, Prediction)
            assert isinstance(other, Prediction)
            label = images.classes[place] if images.classes is not None else None
            tally.add(place, images.names[place], label, one, other)
        if progress:
            progress(place + 1, len(images.names))
    if not tally.images:
        raise NinEdgeError(f"{images.data}: none of {len(images.names):,} images can be read")
    changes = tally.sorted_changes()
    _, (old_timing, new_timing) = time_models((old, new), batches=(1,), seconds=SECONDS)
    shared = [label for label in old.labels if label in set(new.labels)]
    return Comparison(
        old=_model(old, old_timing[0]),
        new=_model(new, new_timing[0]),
        added=tuple(label for label in new.labels if label not in set(old.labels)),
        gone=tuple(label for label in old.labels if label not in set(new.labels)),
        reordered=shared != [label for label in new.labels if label in set(old.labels)],
        data=images.data,
        split=images.split,
        images=tally.images,
        labelled=None if images.classes is None else tally.labelled(),
        changes=tuple(change for _, change in changes),
        pictures=tuple(_picture(new, images, place) for place, _ in changes[:PICTURES]),
        unreadable=tuple(unreadable),
        machine=this_machine(),
    )


class _Tally:
    """Counts predictions one by one, and keeps those that changed."""

    def __init__(self, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        self.images = self._old = self._new = self._both = 0
        self._changes: list[tuple[int, Change]] = []
        places = {label: place for place, label in enumerate(dict.fromkeys(old + new))}
        self._old_places = [places[label] for label in old]
        self._new_places = [places[label] for label in new]
        self._count = len(places)

    def add(
        self, place: int, name: str, label: str | None, old: Prediction, new: Prediction
    ) -> None:
        self.images += 1
        self._old += old.label == label
        self._new += new.label == label
        self._both += old.label == new.label == label
        if old.label == new.label:
            return
        rows = np.zeros((2, self._count))
        rows[0, self._old_places] = old.probabilities
        rows[1, self._new_places] = new.probabilities
        difference = float(np.abs(rows[0] - rows[1]).max())
        change = Change(name, label, old.label, old.score, new.label, new.score, difference)
        self._changes.append((place, change))

    def sorted_changes(self) -> list[tuple[int, Change]]:
        return sorted(self._changes, key=lambda pair: -pair[1].difference)

    def labelled(self) -> Labelled:
        corrected, broken = self._new - self._both, self._old - self._both
        return Labelled(self.images, self._old, self._new, corrected, broken)


def _predictions(
    old: Classifier, new: Classifier, images: Images
) -> Iterator[tuple[Prediction | ImageError, Prediction | ImageError]]:
    workers = usable_threads()
    return zip(
        old.stream(images.old, batch_size=_BATCH, workers=workers),
        new.stream(images.new, batch_size=_BATCH, workers=workers),
        strict=True,
    )


def _model(classify: Classifier, timing: Timing) -> Model:
    info = classify.info
    return Model(
        file=classify.name,
        sha256=info.sha256,
        precision=info.precision,
        size=info.preprocessing.size,
        bytes=Path(classify.name).stat().st_size,
        latency=timing,
    )


def _picture(new: Classifier, images: Images, place: int) -> bytes:
    pixels, _ = new.info.preprocessing.load(images.new[place])
    return png(pixels)

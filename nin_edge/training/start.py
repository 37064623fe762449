"""Starts or resumes a run, and collects notes for the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from nin_edge.checkpoint import DataSource
from nin_edge.data import (
    FOLDER,
    OFFICIAL,
    Dataset,
    DatasetError,
    Location,
    Progress,
    open_dataset,
)
from nin_edge.network import NetworkConfig
from nin_edge.training.errors import TrainingError
from nin_edge.training.finetune import Pretrained
from nin_edge.training.recipe import Recipe
from nin_edge.training.request import Request
from nin_edge.training.run_config import Latency, RunConfig
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.settings import Settings
from nin_edge.training.teachers import (
    Teacher,
    check_teacher,
    load_teacher,
    teacher_notes,
    teacher_size,
)
from nin_edge.training.workers import Workers
from nin_edge.weights import PHOTO_WEIGHTS

WidthSearch: TypeAlias = Callable[[NetworkConfig, float], tuple[float, float]]
"""Gives the width of a network for a latency in milliseconds, and the latency measured."""


@dataclass(frozen=True)
class Choices:
    """What a run needs besides its images."""

    network: NetworkConfig
    """The network."""
    recipe: Recipe
    """How to train it."""
    source: DataSource
    """Name and licence of the data."""
    notes: tuple[str, ...]
    """Choices that the user may not expect."""
    latency: Latency | None = None
    """What the width was chosen for."""


@dataclass(frozen=True, eq=False)
class Start:
    """A run that is about to start, before its data are read."""

    request: Request
    """What the caller asks for."""
    stored: RunConfig | None
    """Configuration of the run to resume; None for a new run."""
    initial: Pretrained | None
    """Weights to start from; None where the state to resume has them."""
    teachers: tuple[Teacher, ...]
    """Networks to learn from, too."""
    latency: Latency | None = None
    """What the width of a new run was chosen for."""

    @classmethod
    def new(cls, request: Request) -> Start:
        """A new run.

        Raises:
            SettingError: a setting cannot work.
            ModelFileError: there are no such weights.
        """
        request.check()
        initial = None
        if request.init and not request.from_scratch:
            initial = Pretrained.load(request.init)
        known = initial or (None if request.from_scratch else Pretrained.load(PHOTO_WEIGHTS))
        request.check_recipe(known)
        return cls(request, None, initial, tuple(map(load_teacher, request.distill_from)))

    @classmethod
    def resumed(cls, request: Request, folder: RunFolder) -> Start:
        """The run in a folder.

        Raises:
            SettingError: a setting is not that of the run.
            ModelFileError: it is not a run's folder, or teachers' weights are not found.
            TrainingError: the run cannot be resumed.
        """
        stored = RunFolder.open(folder.path).read_config()
        folder.check_resumable()
        request.check_resumes(stored)
        initial = None
        if stored.init and not folder.state.exists():
            initial = Pretrained.load(stored.init.weights)
            if initial.checkpoint.fingerprint() != stored.init.sha256:
                raise TrainingError(
                    f"{folder.path}: cannot be resumed, it has no {folder.state.name} yet, and the "
                    f"weights that it starts from, {initial.name}, are others by now"
                )
        names = request.distill_from or tuple(teacher.weights for teacher in stored.teachers)
        return cls(request, stored, initial, tuple(map(load_teacher, names)))

    def suited_to(self, location: Location) -> Start:
        """The same start, from the weights that know photos if the data are photos.

        Raises:
            SettingError: a setting is not that of these weights.
        """
        request = self.request
        if self.stored or self.initial or request.from_scratch:
            return self
        initial = None if location.official else Pretrained.load(PHOTO_WEIGHTS)
        request.check_recipe(initial)
        return replace(self, initial=initial)

    def data_settings(self) -> Settings:
        """The settings that say what the data are; those of the run to resume if not given."""
        stored = self.stored.location if self.stored else None
        settings = self.request.settings.copy()
        if stored:
            settings.setdefault("official", stored.official or FOLDER)
        if stored and stored.labels:
            settings.setdefault("labels", str(stored.labels))
        if stored and stored.test_split:
            settings.setdefault("test_split", stored.test_split)
        if stored and stored.zip_encoding:
            settings.setdefault("zip_encoding", stored.zip_encoding)
        return settings

    def input_shape(self, native_shape: tuple[int, int] | None) -> tuple[int, int]:
        """Side and channels that the network takes, which the data are opened with.

        Args:
            native_shape: side and channels of the data's images, if they all have the same.
        """
        stored = self.stored
        network = stored.network if stored else self.request.network(self.initial, native_shape)
        return network.size, network.channels

    def with_larger(self, location: Location, dataset: Dataset, progress: Progress) -> Dataset:
        """The data set with images of the largest teacher's size, if the network's are smaller.

        So a teacher sees in photos what its student cannot. The images of an official data set,
        which are small, show no more at another size.

        Args:
            location: where the data are.
            dataset: the data at the network's size.
            progress: called with how decoding goes.

        Raises:
            ModelFileError: a teacher has other classes or channels.
            DatasetError: the data changed since they were opened.
        """
        largest = max(map(teacher_size, self.teachers), default=0)
        _, side, _, channels = dataset.images.shape
        if largest <= side or location.official:
            return dataset
        for teacher in self.teachers:  # before the images are decoded once more
            check_teacher(teacher, dataset.labels, channels)
        larger = open_dataset(location, size=largest, channels=channels, progress=progress)
        if larger.names != dataset.names:
            raise DatasetError(f"{location.path}: the images changed while they were read")
        return replace(dataset, larger=larger.images)

    def fit_width(
        self,
        search: WidthSearch,
        dataset: Dataset,
        native_shape: tuple[int, int] | None,
        workers: Workers,
    ) -> Start:
        """The same start with the width that suits the latency asked for.

        Args:
            search: finds the width.
            dataset: the data.
            native_shape: see `input_shape`.
            workers: all processes; the first one searches.
        """
        target = self.request.settings["latency"]
        width = measured = 0.0
        if workers.is_main:
            classes = len(dataset.labels)
            network = self.request.network(None, native_shape, classes=classes)
            width, measured = search(network, target)
        request = replace(self.request, width=workers.broadcast(width))
        latency = Latency(float(target), workers.broadcast(measured))
        return replace(self, request=request, latency=latency)

    def choose(
        self, dataset: Dataset, native_shape: tuple[int, int] | None, processes: int
    ) -> Choices:
        """Choose what the caller did not.

        Args:
            dataset: the data.
            native_shape: see `input_shape`.
            processes: number of processes that share each batch.
        """
        if self.stored:
            source, network = replace(self.stored.data, fingerprint=""), self.stored.network
            notes = self._teacher_notes(network, dataset)
            return Choices(network, self.stored.recipe, source, notes, self.stored.latency)
        classes = len(dataset.labels)
        network = self.request.network(self.initial, native_shape, classes=classes)
        recipe = self.request.recipe(
            dataset, network, fine_tuning=self.initial is not None, processes=processes
        )
        notes = (*self._teacher_notes(network, dataset), *self._notes(dataset, network, recipe))
        return Choices(network, recipe, self.request.source(dataset), notes, self.latency)

    def _notes(self, dataset: Dataset, network: NetworkConfig, recipe: Recipe) -> tuple[str, ...]:
        """Notes on a new run."""
        notes, given = [], self.request.settings
        if latency := self.latency:
            notes.append(
                f"width {network.width:g}: untrained, in int8, on one thread of this machine it "
                f"takes {latency.measured_ms:.3g} ms (target {latency.target_ms:g} ms)"
            )
        if not len(dataset.test):
            notes.append(
                "no test score will be measured: the data have no test split; --test-split 0.2 "
                "takes one from the training images"
            )
        if not recipe.flip and "flip" not in given and dataset.official:
            notes.append(
                f"images of {OFFICIAL[dataset.official]} are not mirrored, they are digits; "
                "flip=true mirrors them"
            )
        if recipe.balanced and "balanced" not in given:
            notes.append(
                "classes differ much in size, so all are seen equally often; balanced=false shows "
                "each image once an epoch"
            )
        if dataset.enlarged:
            notes.append(
                f"{dataset.enlarged:,} of {len(dataset.targets):,} images have fewer pixels than "
                f"the network's {network.size} x {network.size}, and are enlarged; --size chooses "
                "another size"
            )
        initial = self.initial
        if initial and not self.request.init:
            notes.append(
                f"starts from {initial.name}, which knows {len(initial.checkpoint.labels)} kinds "
                "of photos; --init names other weights, --init none starts from random ones"
            )
        if not len(dataset.holdout):
            notes.append(
                "no images are held out, since no class has two to train on: all train, and "
                "nothing is measured" + (" before the test" if len(dataset.test) else "")
            )
        if initial and not initial.keeps_head(network, dataset.labels):
            own = initial.checkpoint.labels
            notes.append(
                f"{initial.name}: new last layers, its own are for another size"
                if own == dataset.labels
                else f"{initial.name}: a new last layer for {len(dataset.labels)} classes, "
                f"its own {len(own)} classes are others"
            )
        return tuple(notes)

    def _teacher_notes(self, network: NetworkConfig, dataset: Dataset) -> tuple[str, ...]:
        notes = (teacher_notes(teacher, network, dataset.labels) for teacher in self.teachers)
        return tuple(chain.from_iterable(notes))

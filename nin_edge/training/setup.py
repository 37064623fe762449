"""Checks, plan and configuration of a run, all before its first step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from nin_edge.checkpoint import DataSource
from nin_edge.data import Dataset, Location
from nin_edge.network import NetworkConfig, NiN
from nin_edge.training.batches import Batches, measure_preprocessing
from nin_edge.training.errors import TrainingError
from nin_edge.training.finetune import Pretrained, freeze
from nin_edge.training.linear_head import fit_linear_head, has_linear_head
from nin_edge.training.objective import Objective
from nin_edge.training.plan import Plan
from nin_edge.training.recipe import Recipe
from nin_edge.training.run_config import Latency, RunConfig, WeightsUsed
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.step import Learner
from nin_edge.training.teachers import Teacher, Teachers, teacher_fingerprint, teachers_work
from nin_edge.training.workers import Workers
from nin_edge_runtime.preprocessing import Preprocessing


@dataclass(frozen=True)
class Machine:
    """Where a training is computed."""

    workers: Workers = field(default_factory=Workers)
    """The processes that share the work; process 0 alone writes to the run's folder."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """This process's device."""
    compiled: bool = False
    """Whether to compile the networks with torch.compile."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A run that is checked and configured, and has not begun."""

    dataset: Dataset
    """The images."""
    plan: Plan
    """The number of steps, and the size of their batches."""
    config: RunConfig
    """What config.json says."""
    folder: RunFolder
    """Where the run is written."""
    machine: Machine
    """Where it is computed."""
    resumes: bool
    """Whether the folder has a state to start from."""
    init: Pretrained | None
    """Weights to start from."""
    teachers: tuple[Teacher, ...]
    """Networks to learn from, too."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        network: NetworkConfig,
        recipe: Recipe,
        source: DataSource,
        run: Path,
        *,
        location: Location | None,
        init: Pretrained | None,
        teachers: Sequence[Teacher],
        latency: Latency | None,
        machine: Machine,
    ) -> Setup:
        """Check what is asked for, and compare it with the run to resume.

        The arguments are those of `loop.train`, and so are the errors.
        """
        try:
            recipe.check_blocks(len(network.blocks))
        except ValueError as error:
            raise TrainingError(str(error)) from error
        _check_compiler(machine)
        plan = Plan.of(recipe, network, len(dataset.train), machine.workers.size)
        folder = RunFolder(run)
        resumes = folder.state.exists()
        stored = folder.read_config() if resumes else None
        config = RunConfig(
            network=network,
            recipe=recipe,
            preprocessing=stored.preprocessing if stored else _measured(dataset, network, init),
            labels=dataset.labels,
            data=replace(source, fingerprint=dataset.fingerprint),
            location=location,
            init=WeightsUsed(init.name, init.checkpoint.fingerprint()) if init else None,
            teachers=tuple(WeightsUsed(one.name, teacher_fingerprint(one)) for one in teachers),
            latency=latency,
        )
        # Another process may know the data by another name.
        same = {**config.fixed(), "data": dataset.fingerprint}
        machine.workers.check_same(
            {"state to resume": resumes, **same, "device": machine.device.type}
        )
        if stored:
            stored.check_resumes(config, folder.config)
            config = replace(stored, location=location or stored.location)
        return cls(dataset, plan, config, folder, machine, resumes, init, tuple(teachers))

    def make_learner(self, progress: Callable[[str, int, int], None]) -> Learner:
        """The network with its initial weights, its optimizers and its objective.

        Args:
            progress: called with a task, and how much of it is done.

        Raises:
            ModelFileError: a teacher has other classes or channels.
        """
        config, machine = self.config, self.machine
        teachers = None
        if self.teachers:
            teachers = Teachers(
                self.teachers,
                config.labels,
                config.network.channels,
                machine.device,
                compiled=machine.compiled,
            )
        torch.manual_seed(config.recipe.seed)  # for the initial weights
        network = NiN(config.network)
        if self.init:
            self.init.copy_to(network, config.labels)
            if not self.init.keeps_head(config.network, config.labels) and has_linear_head(network):
                recipe = config.recipe
                fit_linear_head(
                    network,
                    self.dataset,
                    config.preprocessing,
                    flip=recipe.flip,
                    balanced=recipe.balanced,
                    label_smoothing=recipe.label_smoothing,
                    device=machine.device,
                    progress=progress,
                )
        freeze(network, config.recipe.frozen_blocks)
        return Learner(
            network,
            config.recipe,
            self.plan,
            config.preprocessing,
            Objective(config.recipe, teachers),
            workers=machine.workers,
            device=machine.device,
            compiled=machine.compiled,
        )

    def make_batches(self) -> Batches:
        """The training's batches."""
        return Batches(
            self.dataset,
            self.config.recipe,
            self.plan,
            self.config.preprocessing,
            workers=self.machine.workers,
            device=self.machine.device,
        )

    @property
    def teacher_work(self) -> float:
        """Work of the teachers in a step (`Plan.work`)."""
        return teachers_work(self.teachers, self.config.network, self.machine.device)


def _measured(dataset: Dataset, network: NetworkConfig, init: Pretrained | None) -> Preprocessing:
    """The preprocessing of a new run: that of the weights it starts from, or of its images."""
    if init:
        return init.preprocessing(network.size)
    return measure_preprocessing(dataset, network.size, network.channels)


def _check_compiler(machine: Machine) -> None:
    """Refuse to compile where it cannot work; torch's own error is a hundred lines long."""
    if not machine.compiled:
        return
    if machine.device.type != "cuda" or machine.workers.size > 1:
        processes = machine.workers.size
        place = f"{processes} processes" if processes > 1 else "the CPU"
        raise TrainingError(f"compiling for {place}: expected one process on a GPU")
    if find_spec("triton") is None:
        raise TrainingError("compiling needs Triton, which is not installed: pip install triton")
    named = os.environ.get("CC")  # Triton then tries no other
    if not any(map(shutil.which, [named] if named else ["gcc", "clang"])):
        raise TrainingError(
            "compiling needs a C compiler: expected gcc or clang, or CC to name one"
        )

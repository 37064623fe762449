"""The folder of a run: which files it has, and how they are written."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from nin_edge import plots
from nin_edge.files import is_unfinished, mark_written, write_atomically
from nin_edge.locks import LOCK_NAME, reserved
from nin_edge.metrics import Epoch, Scores
from nin_edge.tensorfile import read_tensors, write_tensors
from nin_edge.text import printable
from nin_edge.training.errors import TrainingError
from nin_edge.training.run_config import RunConfig
from nin_edge.training.state import TrainingState
from nin_edge.training.workers import Workers
from nin_edge_runtime import ModelFileError, NinEdgeError
from nin_edge_runtime.folders import MARKER
from nin_edge_runtime.model_file.strict_json import shortened


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    path: Path
    """The folder, which need not exist."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of an existing run.

        Raises:
            ModelFileError: it is not a run's folder.
        """
        folder = cls(Path(path))
        if not folder.config.is_file():
            raise ModelFileError(
                f"{folder.path}: not a run's folder, expected one with config.json, as nin-edge "
                "train writes it"
            )
        return folder

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch (`metrics.best_epoch`)."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """Checkpoint of the latest epoch or stop."""
        return self.path / "last.safetensors"

    @property
    def state(self) -> Path:
        """Training state, which `--resume` needs."""
        return self.path / "state.safetensors"

    @property
    def config(self) -> Path:
        """Configuration, a `RunConfig`."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """Table of the epochs."""
        return self.path / "metrics.csv"

    @property
    def curves(self) -> Path:
        """Picture of losses and accuracy by epoch."""
        return self.path / "curves.png"

    @property
    def confusion(self) -> Path:
        """Picture of the confusion matrix."""
        return self.path / "confusion.png"

    @property
    def is_unused(self) -> bool:
        """Whether there is nothing in the folder."""
        if not self.path.exists():
            return True
        names = {entry.name for entry in self.path.iterdir()} - {LOCK_NAME, MARKER}
        return all(map(is_unfinished, names))

    def to_resume(self, asked: bool, workers: Workers) -> tuple[bool, tuple[str, ...]]:
        """Whether there is a run to resume, if that is asked for, and a note if there is none.

        Raises:
            WorkersError: one process finds a run, another none.
        """
        resume = asked and not self.is_unused
        workers.check_same({f"run to resume in {self.path}": resume})
        none = asked and not resume
        return resume, (f"{self.path}: no run to resume, a new one starts",) if none else ()

    def reserved(self) -> AbstractContextManager[None]:
        """Context in which no other process trains into the folder.

        Raises:
            NinEdgeError: another process does.
        """
        return reserved(
            self.path,
            LOCK_NAME,
            f"{self.path}: another training is writing to it; name another folder with -o",
        )

    def check_unused(self) -> None:
        """Check that there is nothing in the folder.

        Raises:
            NinEdgeError: there is.
        """
        if not self.is_unused:
            raise NinEdgeError(
                f"{self.path}: already used; continue its run with --resume, or name another "
                "folder with -o"
            )

    def read_config(self) -> RunConfig:
        """The run's configuration.

        Raises:
            ModelFileError: it is missing or damaged.
        """
        return RunConfig.read(self.config)

    def write_config(self, config: RunConfig) -> None:
        """Write the configuration, and make the folder if it does not exist."""
        self.path.mkdir(parents=True, exist_ok=True)
        mark_written(self.path)  # it may lie among the photos
        write_atomically(self.config, json.dumps(config.to_json(), indent=2).encode())

    def check_resumable(self) -> None:
        """Check that the run can be resumed: from its state, or from step 0 if it has had none.

        Raises:
            TrainingError: the state is missing, but there are epochs.
        """
        if self.metrics.exists() and not self.state.exists():
            raise TrainingError(f"{self.path}: cannot be resumed, its {self.state.name} is missing")

    def read_state(self, config: RunConfig) -> tuple[TrainingState, dict[str, Tensor]]:
        """The training state, and the tensors that belong to it.

        Args:
            config: the run's configuration.

        Raises:
            ModelFileError: the state is missing, damaged, or of another configuration.
        """
        tensors, header = read_tensors(self.state, "training state")
        try:
            same, state = header["config_sha256"], TrainingState.from_json(header["state"])
        except (KeyError, ValueError) as error:
            raise ModelFileError(
                f"{self.state}: a damaged training state ({shortened(error)})"
            ) from error
        if same != config.digest():
            raise ModelFileError(
                f"{self.state}: does not belong to {self.config.name} beside it, which was changed "
                "or written by another version of nin-edge"
            )
        return state, tensors

    def write_state(
        self, config: RunConfig, state: TrainingState, tensors: Mapping[str, Tensor]
    ) -> None:
        """Write all that `read_state` needs, and then the table of the epochs."""
        header = {"config_sha256": config.digest(), "state": state.to_json()}
        write_tensors(self.state, "training state", tensors, header)
        self.write_metrics(state.history)

    def write_metrics(self, history: Sequence[Epoch]) -> None:
        """Write the table of the epochs; none before the first."""
        if not history:
            return
        text = io.StringIO()
        rows = csv.DictWriter(text, fieldnames=list(asdict(history[-1])))
        rows.writeheader()
        rows.writerows(map(asdict, history))
        write_atomically(self.metrics, text.getvalue().encode())

    def draw(
        self, name: str, history: Sequence[Epoch], scores: Mapping[str, Scores], *, held_out: int
    ) -> None:
        """Draw the curves and, if anything was scored, the confusion matrix.

        Args:
            name: name of the data set.
            history: all epochs.
            scores: scores on `test` or, if there are no test images, on `holdout`.
            held_out: number of held-out images.
        """
        curves = plots.curves_figure(history, printable(name), held_out=held_out)
        write_atomically(self.curves, plots.to_png(curves))
        for split, named in (("test", "test"), ("holdout", "hold-out")):
            if split in scores:
                shown = scores[split]
                title = printable(f"{name} ({named}): top-1 {shown.top1:.2%}")
                labels = [printable(label) for label in shown.labels]
                figure = plots.confusion_figure(labels, shown.confusion, title)
                write_atomically(self.confusion, plots.to_png(figure))
                break

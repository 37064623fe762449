"""TensorBoard's files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nin_edge.training.progress import Progress
from nin_edge_runtime.errors import MissingDependencyError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes what a training reports; call it with each `Progress`."""

    def __init__(self, folder: Path) -> None:
        """Prepare to write to a folder, which the first epoch makes.

        Raises:
            MissingDependencyError: the package tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "--tensorboard needs tensorboard, which is not installed: pip install tensorboard"
            ) from error
        self._make_writer = SummaryWriter
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __call__(self, progress: Progress) -> None:
        """Add an epoch: its losses, its accuracy on the hold-out and the throughput."""
        if not progress.epoch_ended:
            return
        if self._writer is None:  # hides the epochs that a resumed run trains again
            self._writer = self._make_writer(str(self._folder), purge_step=progress.epoch)
        for name, value in (
            ("loss/train", progress.loss),
            ("loss/holdout", progress.holdout_loss),
            ("top1/holdout", progress.holdout_top1),
            ("images_per_second", progress.images_per_second),
        ):
            if value is not None:
                self._writer.add_scalar(name, value, progress.epoch)
        self._writer.flush()

"""A run's progress as files that TensorBoard shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nin_edge_runtime.errors import MissingDependencyError

if TYPE_CHECKING:
    from nin_edge.training.loop import Progress


class TensorBoard:
    """Writes what `train` reports: pass it as `report`."""

    def __init__(self, folder: Path) -> None:
        """Prepare to write to `folder`, which is made with the first report.

        Raises:
            MissingDependencyError: the package tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "--tensorboard needs what is not installed: pip install tensorboard"
            ) from error
        self._make = SummaryWriter
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __call__(self, progress: Progress) -> None:
        """Add the end of an epoch: losses, accuracy on the hold-out, images a second."""
        if progress.holdout_top1 is None or progress.holdout_loss is None:
            return
        if self._writer is None:  # later epochs of a torn run are written again, and shown once
            self._writer = self._make(str(self._folder), purge_step=progress.epoch)
        for name, value in (
            ("loss/train", progress.loss),
            ("loss/holdout", progress.holdout_loss),
            ("top1/holdout", progress.holdout_top1),
            ("images_per_second", progress.images_per_second),
        ):
            self._writer.add_scalar(name, value, progress.epoch)
        self._writer.flush()

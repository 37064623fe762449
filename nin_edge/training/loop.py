"""The training loop: for each epoch, for each step, update, report, stop, score and save.

Everything random is a function of the seed and the step, so a training resumes to the same result
from its weights, its momenta and a counter. Several processes may share the work (`workers.py`):
each computes a share of every batch. Choices are made on the hold-out. The test split is scored
once, at the end, with the chosen weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from nin_edge import metrics
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset, Location
from nin_edge.network import NetworkConfig
from nin_edge.trained_scores import SplitScores, TrainedScores
from nin_edge.training.completion import complete, score_holdout
from nin_edge.training.errors import TrainingError, TrainingStoppedError
from nin_edge.training.finetune import Pretrained
from nin_edge.training.progress import Loading, Meter, Progress
from nin_edge.training.recipe import Recipe
from nin_edge.training.run_config import Latency
from nin_edge.training.setup import Machine, Setup
from nin_edge.training.state import TrainingState
from nin_edge.training.teachers import Teacher
from nin_edge_runtime import ModelFileError
from nin_edge_runtime.model_file.strict_json import shortened

_STATE_SECONDS = 180.0  # between training states within an epoch: what a power cut can cost
_REPORT_STEPS: Final = 10  # between reports: reading the loss waits for the GPU


def train(
    dataset: Dataset,
    network: NetworkConfig,
    recipe: Recipe,
    source: DataSource,
    run: Path,
    *,
    location: Location | None = None,
    init: Pretrained | None = None,
    teachers: Sequence[Teacher] = (),
    latency: Latency | None = None,
    machine: Machine | None = None,
    report: Callable[[Loading | Progress], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Train a network, from the start or from the state in the run's folder.

    `nin_edge.train` is easier to use: it chooses network and recipe to suit the data.

    Args:
        dataset: images of the network's size and channels.
        network: the network.
        recipe: how to train it.
        source: name and licence of the data, for the checkpoint.
        run: the run's folder, made if missing; a state in it is resumed.
        location: where the data are, for the run's configuration.
        init: weights of the same layers to start from. If their classes are others, the last layer
            is new. Not needed to resume.
        teachers: networks of the same classes to learn from, too (`Recipe.distill_weight`).
        latency: what the network's width was chosen for, for the run's configuration.
        machine: where to compute; this process and the CPU if None. Several processes need the
            same arguments and, to resume, the same folder.
        report: called while a new last layer is fitted, then every few steps and at the end of each
            epoch.
        should_stop: called after each step, and while the result is scored; True stops.

    Returns:
        The checkpoint of the best epoch (`metrics.best_epoch`), with its scores, temperature and
        activation ranges, as in best.safetensors. In processes other than 0, the latest weights
        alone.

    Raises:
        TrainingError: the loss became NaN or infinite, the run is of other data or settings, the
            GPU has too little memory, or compiling cannot work here.
        ModelFileError: a teacher has other classes or channels; or the run's state is damaged.
        WorkersError: the processes have different data or settings.
        TrainingStoppedError: `should_stop` returned True; the state is saved.
        OSError: a file could not be written.
    """
    setup = Setup.of(
        dataset,
        network,
        recipe,
        source,
        run,
        location=location,
        init=init,
        teachers=teachers,
        latency=latency,
        machine=machine or Machine(),
    )
    loop = _Loop(setup, report)
    loop.start()
    loop.run(should_stop)
    return loop.finish(should_stop) if loop.workers.is_main else loop.checkpoint()


class _Loop:
    """A training under way."""

    def __init__(self, setup: Setup, report: Callable[[Loading | Progress], None]) -> None:
        self.setup, self.report = setup, report
        self.plan, self.recipe = setup.plan, setup.config.recipe
        self.folder, self.workers = setup.folder, setup.machine.workers
        self.learner = setup.make_learner(lambda *task: report(Loading(*task)))
        self.batches = setup.make_batches()
        self.state = TrainingState()

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Take the remaining steps."""
        state, steps_per_epoch = self.state, self.plan.steps_per_epoch
        meter = Meter(self.plan, state.step, state.seconds, self.setup.teacher_work)
        saved = time.monotonic()
        for epoch in range(state.step // steps_per_epoch, self.recipe.epochs):
            if self._is_stale():
                return
            self.learner.train_mode()
            # Summed on the device: reading a number would wait for the GPU in every step.
            losses = torch.zeros((), device=self.setup.machine.device, dtype=torch.float64)
            end = (epoch + 1) * steps_per_epoch
            for step in range(state.step, end):
                losses += self._step(step)
                state.step, state.seconds = step + 1, meter.seconds
                # One process's clock and any process's signal decide for all of them.
                is_due = self.workers.is_main and time.monotonic() - saved > _STATE_SECONDS
                stop, is_due = self.workers.any(should_stop(), is_due)
                save = is_due or stop or state.step == end
                if save or step % steps_per_epoch % _REPORT_STEPS == 0:
                    self._take_losses(losses, check_weights=save)
                    progress = meter.progress(state, self.recipe.epochs)
                    if state.step == end:
                        progress = self._end_epoch(progress)
                    self.report(progress)
                if save:
                    self._save_state()
                    saved = time.monotonic()
                if stop and state.step < self.plan.steps:
                    self._stop(epoch)

    def _step(self, step: int) -> Tensor:
        """Take a step; gives its loss."""
        try:
            return self.learner.step(step, *self.batches.get(step))
        except torch.OutOfMemoryError as error:  # a GPU's
            plan = self.plan
            raise TrainingError(
                f"not enough memory on the GPU for steps of {plan.batch_size} images of "
                f"{plan.size} x {plan.size}: expected a smaller batch_size, such as "
                f"{max(2, plan.batch_size // 2)}, or a smaller size"
            ) from error

    def start(self) -> None:
        """Take over the state in the run's folder, or write the configuration of a new run."""
        folder, config = self.folder, self.setup.config
        if self.setup.resumes:
            state, tensors = folder.read_state(config)
            steps = self.plan.steps_per_epoch
            if state.step > self.plan.steps or len(state.history) != state.step // steps:
                raise ModelFileError(
                    f"{folder.state}: a damaged training state (step {state.step} with "
                    f"{len(state.history)} epochs of {steps} steps)"
                )
            # A folder that was copied to another machine may be older there.
            self.workers.check_same({"training state": state.to_json()})
            try:
                self.learner.restore(tensors, state.scaler)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ModelFileError(
                    f"{folder.state}: a damaged training state ({shortened(error)})"
                ) from error
            self.state = state
        if self.workers.is_main:
            folder.write_metrics(self.state.history)  # if it ended before it could
            folder.write_config(config)  # again if the run is resumed: the data may have moved
            if config.init and not self.setup.resumes:
                self._save_state()  # so that the weights it starts from are not needed to resume

    def finish(self, should_stop: Callable[[], bool]) -> Checkpoint:
        """Complete the best checkpoint with what is measured once, and draw the pictures."""
        best, dataset, state = Checkpoint.load(self.folder.best), self.setup.dataset, self.state
        scores = replace(
            best.trained_scores,
            train_images=len(dataset.train),
            train_seconds=round(state.seconds, 1),
            epochs=len(state.history),
        )
        completed = complete(
            replace(best, trained_scores=scores),
            dataset,
            self.recipe,
            device=self.setup.machine.device,
            should_stop=should_stop,
        )
        completed.checkpoint.save(self.folder.best)
        self.folder.draw(
            dataset.name, state.history, completed.scores, held_out=len(dataset.holdout)
        )
        return completed.checkpoint

    def checkpoint(self, scores: TrainedScores | None = None) -> Checkpoint:
        """The current weights."""
        config = self.setup.config
        return Checkpoint(
            config=config.network,
            weights=self.learner.weights(),
            labels=config.labels,
            preprocessing=config.preprocessing,
            data=config.data,
            latency_target_ms=config.latency.target_ms if config.latency else None,
            trained_scores=scores or TrainedScores(),
        )

    def _is_stale(self) -> bool:
        """Whether the hold-out loss has not fallen for as many epochs as the recipe's patience."""
        # While images are at low resolution, a score at full resolution says little.
        history = self.state.history[self.plan.low_resolution_epochs :]
        if not self.recipe.patience or not history:
            return False
        best = metrics.best_epoch(history, len(self.setup.dataset.holdout))
        return len(history) - best > self.recipe.patience

    def _take_losses(self, losses: Tensor, *, check_weights: bool) -> None:
        """Move the losses to the state's sum; refuse to continue if a value is not finite."""
        if check_weights:
            self.workers.average(self.learner.statistics())
        loss = float(self.workers.mean(losses))
        losses.zero_()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        if check_weights and not self.learner.is_finite():
            raise self._diverged("a weight is not finite")
        self.state.loss_sum += loss

    def _end_epoch(self, progress: Progress) -> Progress:
        """Score the hold-out, keep the weights if they are the best so far, write the table."""
        top1 = loss = None
        held_out = len(self.setup.dataset.holdout)
        if held_out:
            scores = self._score() if self.workers.is_main else (0.0, 0.0)
            top1, loss = map(self.workers.broadcast, scores)
        history = self.state.history
        history.append(
            metrics.Epoch(
                epoch=progress.epoch,
                loss=round(progress.loss, 6),
                holdout_top1=top1,
                holdout_loss=None if loss is None else round(loss, 6),
                images_per_second=round(progress.images_per_second, 1),
                seconds=round(self.state.seconds, 1),
            )
        )
        self.state.loss_sum = 0.0
        if self.workers.is_main:
            measured = None if top1 is None else SplitScores(top1)
            checkpoint = self.checkpoint(
                TrainedScores(progress.epoch, holdout_loss=loss, holdout=measured)
            )
            if metrics.best_epoch(history, held_out) == len(history) - 1:
                checkpoint.save(self.folder.best)
            checkpoint.save(self.folder.last)
        return replace(progress, holdout_top1=top1, holdout_loss=loss, epoch_ended=True)

    def _score(self) -> tuple[float, float]:
        """Accuracy and loss of the current weights on the hold-out."""
        scores = score_holdout(
            self.learner.network,
            self.setup.config.preprocessing,
            self.setup.dataset,
            self.setup.machine.device,
        )
        if scores is None:
            raise self._diverged("a logit of the hold-out is not finite")
        return scores

    def _diverged(self, fault: str) -> TrainingError:
        epoch, place = divmod(self.state.step - 1, self.plan.steps_per_epoch)
        return TrainingError(
            f"training diverged: {fault} in epoch {epoch + 1}, step {place + 1} of "
            f"{self.plan.steps_per_epoch}; try a learning rate below {self.recipe.learning_rate:g}"
        )

    def _save_state(self) -> None:
        if self.workers.is_main:
            self.state.scaler = self.learner.scaler_state()
            self.folder.write_state(self.setup.config, self.state, self.learner.state_tensors())

    def _stop(self, epoch: int) -> None:
        """Leave a checkpoint of the current weights, and raise."""
        if self.workers.is_main:
            self.checkpoint().save(self.folder.last)
        raise TrainingStoppedError(
            f"stopped in epoch {epoch + 1}, after step {self.state.step} of {self.plan.steps}"
        )

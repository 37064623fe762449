"""The training loop: Muon and SGD on a one-cycle schedule, resumable to the bit.

Everything random is a function of the seed and the step, so the training state is the weights, the
momenta and a counter. Several processes may share the work (`team.py`): each computes a part of
every batch. Choices are made on the hold-out; the test split is scored once, at the end, with the
weights chosen.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from nin_edge import metrics
from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint, DataSource, read_preprocessing
from nin_edge.data import Dataset
from nin_edge.files import write_atomically
from nin_edge.kernels import compile_network
from nin_edge.network import NetworkConfig, NiN
from nin_edge.tensorfile import read_tensors, write_tensors
from nin_edge.training.augment import (
    alternating_flip,
    augment,
    cut_mix,
    cut_out,
    random_shifts,
    random_sides,
)
from nin_edge.training.batches import epoch_order
from nin_edge.training.completion import TrainingStoppedError, complete, draw
from nin_edge.training.finetune import Pretrained, Teacher, distillation_loss, freeze, hold
from nin_edge.training.memory import give_back_memory
from nin_edge.training.recipe import Recipe, images_at_once, make_optimizers, one_cycle, small_side
from nin_edge.training.workers import Team
from nin_edge_runtime import ModelFileError, NinEdgeError
from nin_edge_runtime.preprocessing import Preprocessing

_WEIGHTS: Final = "weights/"  # prefixes of the tensors in a training state
_MOMENTA: Final = "momenta/"
_STATE_SECONDS = 180.0  # between training states within an epoch: what a power cut can cost
_REPORT_STEPS = 10  # between reports: reading the loss waits for a GPU


class TrainingError(NinEdgeError, RuntimeError):
    """Training cannot start or go on; the message says why and what would help."""


@dataclass(frozen=True)
class Progress:
    """Where training stands."""

    epoch: int
    """Counted from 1."""
    epochs: int
    """Epochs in all."""
    done: float
    """Part of all steps that is done, 0 to 1."""
    loss: float
    """Mean training loss of this epoch so far."""
    images_per_second: float
    """Throughput since training started or was resumed."""
    seconds_left: float
    """Estimate of what the remaining steps take."""
    holdout_top1: float | None
    """Accuracy on the hold-out, 0 to 1, at the end of an epoch; None within one."""
    holdout_loss: float | None
    """Loss there, as `metrics.calibrated_loss` takes it, which chooses the weights; or None."""


@dataclass
class _State:
    """What changes while training, but for weights and momenta."""

    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def measure_preprocessing(dataset: Dataset, size: int, channels: int) -> Preprocessing:
    """Preprocessing with the mean and standard deviation of the images to fit."""
    totals = np.zeros((2, channels))
    for batch in evaluate.batches(dataset.images, dataset.train):
        pixels = batch.astype(np.float64)
        totals += pixels.sum(axis=(0, 1, 2)), (pixels**2).sum(axis=(0, 1, 2))
    mean, square = totals / (len(dataset.train) * size * size)
    std = np.sqrt(
        np.maximum(square - mean**2, 1.0)
    )  # images of one flat colour still need a divisor
    return Preprocessing(
        size,
        channels,
        tuple(round(v / 255, 4) for v in mean),
        tuple(round(v / 255, 4) for v in std),
    )


def train(
    dataset: Dataset,
    config: NetworkConfig,
    recipe: Recipe,
    source: DataSource,
    run: Path,
    *,
    init: Pretrained | None = None,
    teachers: Sequence[Pretrained] = (),
    team: Team | None = None,
    device: torch.device | str = "cpu",
    compiled: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Train a network, from the start or from the state that `run` holds.

    Writes `best.safetensors`, `last.safetensors`, `state.safetensors`, `metrics.csv` and
    `config.json` to `run`, and at the end `curves.png` and `confusion.png`.

    Args:
        dataset: images of the size and channels that `config` wants.
        config: the network.
        recipe: how to train it.
        source: what the checkpoint says of its data.
        run: folder to write to, made if missing; a state in it is resumed.
        init: weights to start from, of the same layers; where their classes are others, the last
            layer is new. Their normalisation of the input stays. Not needed to resume.
        teachers: networks of the same classes whose mean answer is learnt, too (`Recipe.teaching`).
        team: the processes that share the work, this one alone if None. All need the same arguments
            and, to resume, the same `run`; the first one alone writes to it.
        device: where to compute.
        compiled: compute with kernels that torch.compile makes; on a GPU, in one process.
        report: told how it goes, every few steps and at the end of each epoch.
        should_stop: asked after each step, and while the result is scored.

    Returns:
        The checkpoint with the least loss on the hold-out (`metrics.calibrated_loss`), with its
        test score, temperature and activation ranges; what `best.safetensors` holds. In other
        processes than the first of a team, the latest weights alone.

    Raises:
        TrainingError: the loss became NaN or infinite, the run's state belongs to other data or
            settings, or `compiled` cannot work here.
        ModelFileError: a teacher has other classes or channels; or the run's state is damaged.
        TeamError: the processes have different data or settings.
        TrainingStoppedError: `should_stop` said so; the state is saved.
        OSError: a file could not be written.
    """
    loop = _Loop(
        *(dataset, config, recipe, source, run, init, teachers),
        *(team or Team(), torch.device(device), compiled, report),
    )
    loop.resume()
    loop.fit(should_stop)
    return loop.finish(should_stop) if loop.team.leads else loop.checkpoint()


class _Loop:
    """One training run: the pieces that `train` walks through."""

    def __init__(
        self,
        dataset: Dataset,
        config: NetworkConfig,
        recipe: Recipe,
        source: DataSource,
        run: Path,
        init: Pretrained | None,
        teachers: Sequence[Pretrained],
        team: Team,
        device: torch.device,
        compiled: bool,
        report: Callable[[Progress], None],
    ) -> None:
        if not len(dataset.holdout):
            raise TrainingError(
                f"{dataset.name}: no images left to hold out, expected at least 3 a class"
            )
        if recipe.frozen_blocks >= len(config.blocks):
            raise TrainingError(
                f"{recipe.frozen_blocks} blocks to freeze of {len(config.blocks)}: expected fewer, "
                "the last one has to learn"
            )
        if compiled:
            _require_compiler(device, team)
        self.dataset, self.config, self.recipe = dataset, config, recipe
        self.run, self.team, self.device, self.report = run, team, device, report
        self.source = replace(source, fingerprint=dataset.fingerprint)
        self.state = _State()
        if recipe.batch_size % team.size:
            below = recipe.batch_size // team.size * team.size
            choice = " or ".join(map(str, filter(None, (below, below + team.size))))
            fewer = max(n for n in range(1, team.size) if recipe.batch_size % n == 0)
            raise TrainingError(
                f"a batch of {recipe.batch_size} images for {team.size} processes: expected a "
                f"multiple, so that all have the same share, such as {choice}, or a number of "
                f"processes that divides it, such as {fewer}"
            )
        self.batch_size = min(recipe.batch_size, len(dataset.train) // team.size * team.size)
        if self.batch_size < 2 * team.size:
            raise TrainingError(
                f"a batch of {self.batch_size} images for {team.size} processes, of "
                f"{len(dataset.train)} to fit: expected at least two for each"
            )
        # What does not fill a batch is left out: another part in every epoch.
        self.steps_per_epoch = len(dataset.train) // self.batch_size
        self.steps = recipe.epochs * self.steps_per_epoch
        # Only a global average takes maps of any size.
        small = recipe.small_images if config.head == "gap" else 0.0
        self.small_steps = round(small * self.steps)
        self.teacher = (
            Teacher(teachers, dataset.labels, config.channels, device, compiled=compiled)
            if teachers
            else None
        )
        # They go forward alone, and the network backward too, which costs twice as much again.
        taught = sum(one.checkpoint.config.multiply_adds() for one in teachers)
        self.teacher_work = taught / (3 * config.multiply_adds())
        torch.manual_seed(recipe.seed)
        network = NiN(config)
        if init:
            init.copy_to(network, dataset.labels)
        freeze(network, recipe.frozen_blocks)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = make_optimizers(self.network, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.fp16)
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.flips = np.random.default_rng(recipe.seed).random(len(dataset.targets)) < 0.5
        # What a state must share with the run that resumes it.
        self.identity = {
            "labels": list(dataset.labels),
            "data": asdict(self.source),
            "network": asdict(config),
            "recipe": asdict(recipe),
            "init": init
            and {
                "weights": init.name,
                "sha256": init.checkpoint.fingerprint(),
                "new_head": not init.keeps_head(config, dataset.labels),
            },
            "teacher": [
                {"weights": one.name, "sha256": one.checkpoint.fingerprint()} for one in teachers
            ],
        }
        self.path = run / "state.safetensors"
        self.resumes = self.path.exists()
        same = {key: _compared(key, value) for key, value in self.identity.items()}
        same |= {"data": dataset.fingerprint}  # another process may call them otherwise
        team.check_same({**same, "device": device.type, "state to resume": self.resumes})
        if not self.resumes:  # else they are in the state
            self._use(
                replace(init.checkpoint.preprocessing, size=config.size)
                if init
                else measure_preprocessing(dataset, config.size, config.channels)
            )
        self.forward = compile_network(self.network) if compiled else team.wrap(self.network)

    def _use(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.transform = evaluate.InputTransform(preprocessing, self.device)

    # --- the loop ---------------------------------------------------------------------------------

    def fit(self, should_stop: Callable[[], bool]) -> None:
        """Run the remaining steps."""
        started, first, saved = time.monotonic(), self.state.step, time.monotonic()
        before = self.state.seconds
        while self.state.step < self.steps and not self._is_stale():
            epoch, place = divmod(self.state.step, self.steps_per_epoch)
            order = epoch_order(
                self.dataset.targets,
                self.dataset.train,
                balanced=self.recipe.balanced,
                rng=np.random.default_rng([self.recipe.seed, epoch]),
            )
            self.network.train()
            hold(self.network, self.recipe.frozen_blocks)
            total = torch.zeros((), device=self.device, dtype=torch.float64)
            for batch in range(place, self.steps_per_epoch):
                chosen = np.sort(order[batch * self.batch_size : (batch + 1) * self.batch_size])
                total += self._step(chosen, epoch)
                self.state.step += 1
                elapsed = time.monotonic() - started
                self.state.seconds = before + elapsed
                stop, due = self.team.agree(
                    should_stop(), self.team.leads and time.monotonic() - saved > _STATE_SECONDS
                )
                last = batch + 1 == self.steps_per_epoch
                save = last or stop or due
                if save:
                    self.team.average(self._statistics())
                if save or batch % _REPORT_STEPS == 0:
                    self.state.loss_sum += self._checked(total, weights=save)
                    total.zero_()
                    work = self._work(self.state.step)
                    left = (self._work(self.steps) - work) / (work - self._work(first))
                    where = Progress(
                        epoch=epoch + 1,
                        epochs=self.recipe.epochs,
                        done=self.state.step / self.steps,
                        loss=self.state.loss_sum / (batch + 1),
                        images_per_second=(self.state.step - first) * self.batch_size / elapsed,
                        seconds_left=left * elapsed,
                        holdout_top1=None,
                        holdout_loss=None,
                    )
                    if last:
                        where = self._end_epoch(where)
                    self.report(where)
                if save:
                    self._save_state()
                    saved = time.monotonic()
                if stop and self.state.step < self.steps:
                    if self.team.leads:
                        self.checkpoint().save(self.run / "last.safetensors")
                    raise TrainingStoppedError(
                        f"stopped in epoch {epoch + 1}, "
                        f"after step {self.state.step} of {self.steps}"
                    )

    def _is_stale(self) -> bool:
        """Whether the hold-out's loss has not fallen for as long as the recipe is patient."""
        # While images are small, a score at full size says little.
        small_epochs = math.ceil(self.small_steps / self.steps_per_epoch)
        rows = self.state.history[small_epochs:]
        if not self.recipe.patience or not rows:
            return False
        return len(rows) - metrics.best_epoch(_epochs(rows)) > self.recipe.patience

    def _work(self, steps: int) -> float:
        """What the first `steps` steps cost, in steps at full size and without a teacher."""
        small = min(steps, self.small_steps)
        own = steps - small + small * (small_side(self.config.size) / self.config.size) ** 2
        return own + steps * self.teacher_work

    def _step(self, chosen: np.ndarray[Any, np.dtype[np.int64]], epoch: int) -> Tensor:
        """One update from the chosen images; returns the loss of this process's share of them."""
        recipe, step = self.recipe, self.state.step
        if step == self.small_steps:
            give_back_memory()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * one_cycle(step, self.steps, recipe.warmup)
        share = slice(self.team.rank, None, self.team.size)
        pixels = self._augmented(chosen, share, epoch)
        targets = evaluate.to_device(self.dataset.targets[chosen[share]], self.device)
        if recipe.cutmix:
            pixels, targets = self._mixed(pixels, targets)
        self.network.zero_grad(set_to_none=True)
        entropy = np.random.SeedSequence([recipe.seed, step, 2, self.team.rank])
        torch.manual_seed(int(entropy.generate_state(1)[0]))  # dropout's
        side = small_side(self.config.size) if step < self.small_steps else self.config.size
        at_once = len(pixels) if self.device.type == "cuda" else images_at_once(self.config, side)
        # A batch lies in the order of the data set, by class: parts take turns, or the statistics
        # of each would be those of a few classes.
        count = max(1, min(math.ceil(len(pixels) / at_once), len(pixels) // 2))
        parts = [slice(first, None, count) for first in range(count)]
        total = torch.zeros((), device=self.device)
        for part in parts:
            with self.team.averaging(self.forward, last=part is parts[-1]):
                weight = len(targets[part]) / len(targets)
                loss = self._loss(pixels[part], targets[part], side) * weight
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return total

    def _augmented(
        self, chosen: np.ndarray[Any, np.dtype[np.int64]], share: slice, epoch: int
    ) -> Tensor:
        """This process's share of the chosen images, as this step shows them, on the device."""
        recipe, size, step = self.recipe, self.config.size, self.state.step
        crop, hole = round(recipe.crop * size / 32), round(recipe.cutout * size / 32)
        shifts = random_shifts(len(chosen), crop, np.random.default_rng([recipe.seed, step, 1]))
        flip = alternating_flip(self.flips[chosen[share]], epoch) if recipe.flip else None
        pixels = augment(
            evaluate.to_device(self.dataset.images[chosen[share]], self.device),
            crop=crop,
            shift=evaluate.to_device(shifts[share], self.device),
            flip=flip if flip is None else evaluate.to_device(flip, self.device),
        )
        if hole:
            rng = np.random.default_rng([recipe.seed, step, 3])
            centre = rng.integers(0, size, size=(len(chosen), 2))[share]
            mean = np.round(255 * np.array(self.preprocessing.mean)).astype(np.uint8)
            pixels = cut_out(
                pixels,
                side=hole,
                centre=evaluate.to_device(centre, self.device),
                fill=evaluate.to_device(mean, self.device),
            )
        return pixels

    def _mixed(self, pixels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The images with squares of others, and how much each is of which class, (N, K)."""
        recipe, count, size = self.recipe, len(pixels), self.config.size
        rng = np.random.default_rng([recipe.seed, self.state.step, 4, self.team.rank])
        partner = evaluate.to_device(rng.permutation(count), self.device)
        side = random_sides(count, size, recipe.cutmix, rng)
        centre = rng.integers(0, size, size=(count, 2))
        pixels, own = cut_mix(
            pixels,
            side=evaluate.to_device(side, self.device),
            centre=evaluate.to_device(centre, self.device),
            partner=partner,
        )
        whole = nn.functional.one_hot(targets, self.config.classes).float()
        return pixels, torch.lerp(whole[partner], whole, own[:, None])

    def _loss(self, pixels: Tensor, targets: Tensor, side: int) -> Tensor:
        """Mean loss of augmented images at the given side; targets are classes or parts of them."""
        recipe = self.recipe
        inputs = self.transform(pixels)
        if side != self.config.size:
            inputs = nn.functional.interpolate(
                inputs, [side, side], mode="bilinear", antialias=True
            )
        kind = torch.float16 if recipe.fp16 else torch.bfloat16
        with torch.autocast(self.device.type, dtype=kind, enabled=recipe.fp16 or recipe.bf16):
            logits = self.forward(inputs).float()
            taught = self.teacher(pixels) if self.teacher else None
        loss: Tensor = self.loss(logits, targets)
        if taught is not None:
            loss = loss + recipe.teaching * (distillation_loss(logits, taught) - loss)
        return loss

    def _checked(self, total: Tensor, *, weights: bool) -> float:
        """The summed loss as a number; refuses to go on or to save once it or a weight is none."""
        value = float(self.team.mean(total))
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        if weights and not all(v.isfinite().all() for v in self.network.state_dict().values()):
            raise self._diverged("a weight is no finite number")
        return value

    def _diverged(self, what: str) -> TrainingError:
        epoch, batch = divmod(self.state.step - 1, self.steps_per_epoch)
        return TrainingError(
            f"training diverged: {what} in epoch {epoch + 1}, step {batch + 1} of "
            f"{self.steps_per_epoch}; try a learning rate below {self.recipe.learning_rate:g}"
        )

    def _statistics(self) -> Iterator[Tensor]:
        """Running means and variances, which each process takes of its own share of the batches."""
        return (buffer for buffer in self.network.buffers() if buffer.is_floating_point())

    def _end_epoch(self, where: Progress) -> Progress:
        """Score the hold-out, keep the weights if they are the best yet, write the epoch's row."""
        top1, loss = map(self.team.tell, self._score() if self.team.leads else (0.0, 0.0))
        self.state.history.append(
            {
                "epoch": where.epoch,
                "loss": round(where.loss, 6),
                "holdout_top1": top1,
                "holdout_loss": round(loss, 6),
                "images_per_second": round(where.images_per_second, 1),
                "seconds": round(self.state.seconds, 1),
            }
        )
        self.state.loss_sum = 0.0
        if self.team.leads:
            history = self.state.history
            checkpoint = self.checkpoint(epoch=where.epoch, holdout_top1=top1, holdout_loss=loss)
            if metrics.best_epoch(_epochs(history)) == len(history) - 1:
                checkpoint.save(self.run / "best.safetensors")
            checkpoint.save(self.run / "last.safetensors")
            text = io.StringIO()
            rows = csv.DictWriter(text, fieldnames=list(history[-1]))
            rows.writeheader()
            rows.writerows(history)
            write_atomically(self.run / "metrics.csv", text.getvalue().encode())
        return replace(where, holdout_top1=top1, holdout_loss=loss)

    def _score(self) -> tuple[float, float]:
        """Accuracy and loss of the current weights on the hold-out."""
        holdout = self.dataset.holdout
        give_back_memory()
        logits = evaluate.logits(
            self.network, self.preprocessing, self.dataset.images, holdout, self.device
        )
        give_back_memory()
        if not np.isfinite(logits).all():
            raise self._diverged("a logit of the hold-out is no finite number")
        targets = self.dataset.targets[holdout]
        return metrics.top1(logits, targets), metrics.calibrated_loss(logits, targets)

    def finish(self, should_stop: Callable[[], bool]) -> Checkpoint:
        """Complete the best checkpoint with what is measured once, and draw how it went."""
        best = Checkpoint.load(self.run / "best.safetensors")
        figures = {
            "train_images": len(self.dataset.train),
            "train_seconds": round(self.state.seconds, 1),
            "epochs": len(self.state.history),
        }
        best, scores = complete(
            replace(best, metrics={**best.metrics, **figures}),
            self.dataset,
            device=self.device,
            should_stop=should_stop,
        )
        best.save(self.run / "best.safetensors")
        draw(self.run, self.dataset.name, _epochs(self.state.history), scores)
        return best

    # --- what is on the disk ----------------------------------------------------------------------

    def resume(self) -> None:
        """Take up the state in the run's folder, or write down what a new run is."""
        if not self.resumes:
            if self.team.leads:
                self._begin()
            return
        path = self.path
        tensors, header = read_tensors(path, "training state")
        stored = header.get("identity", {})
        if not self.identity["init"]:
            self.identity["init"] = stored.get("init")
        for key, value in self.identity.items():
            was = stored.get(key)
            if key == "data" and was and was["fingerprint"] != self.source.fingerprint:
                raise TrainingError(
                    f"{path}: was trained on other images than these, on {was['name']!r}"
                )
            if _compared(key, was) != _compared(key, json.loads(json.dumps(value))):
                raise TrainingError(f"{path}: was trained with another {key}: expected {was}")
        # A folder copied to another machine may be of another day.
        self.team.check_same({"training state": header.get("state")})
        try:
            state = {**header["state"]}
            state.pop("best", None)  # the best accuracy, in one of before the loss chose
            self.state = _State(**state)
            self._restore(tensors)
            self._use(read_preprocessing(header["preprocessing"]))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"{path}: a damaged training state ({error})") from error

    def _begin(self) -> None:
        """Make the run's folder."""
        self.run.mkdir(parents=True, exist_ok=True)
        if self.identity["init"]:
            self._save_state()  # so that going on never needs the other weights again
        text = json.dumps({**self.identity, "preprocessing": asdict(self.preprocessing)}, indent=2)
        write_atomically(self.run / "config.json", text.encode())

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over weights and momenta; a built-in error if one is missing or odd."""
        self.scaler.load_state_dict(self.state.scaler)
        weights = {
            name.removeprefix(_WEIGHTS): value
            for name, value in tensors.items()
            if name.startswith(_WEIGHTS)
        }
        self.network.load_state_dict(weights)
        for name, weight, optimizer in self._with_momentum():
            # In the weight's own memory format, which the file does not keep.
            momentum = torch.empty_like(weight).copy_(tensors[_MOMENTA + name])
            optimizer.state[weight]["momentum_buffer"] = momentum

    def _with_momentum(self) -> Iterator[tuple[str, Tensor, torch.optim.Optimizer]]:
        """The weights that have a momentum, with their names and optimisers."""
        names = {weight: name for name, weight in self.network.named_parameters()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for weight in group["params"] if group["momentum"] else ():
                    yield names[weight], weight, optimizer

    def _save_state(self) -> None:
        """Write all that `resume` needs, once for the team."""
        if not self.team.leads:
            return
        self.state.scaler = self.scaler.state_dict()
        tensors = {_WEIGHTS + name: value for name, value in self.network.state_dict().items()}
        for name, weight, optimizer in self._with_momentum():
            momentum = optimizer.state.get(weight, {}).get("momentum_buffer")
            # Before the first step there is none, which is as good as one of 0.
            tensors[_MOMENTA + name] = torch.zeros_like(weight) if momentum is None else momentum
        header = {
            "identity": self.identity,
            "state": asdict(self.state),
            "preprocessing": asdict(self.preprocessing),
        }
        write_tensors(self.path, "training state", tensors, header)

    def checkpoint(self, **metrics: float) -> Checkpoint:
        """The current weights."""
        return Checkpoint(
            config=self.config,
            weights={
                name: value.detach().clone() for name, value in self.network.state_dict().items()
            },
            labels=self.dataset.labels,
            preprocessing=self.preprocessing,
            data=self.source,
            metrics=metrics,
        )


def _require_compiler(device: torch.device, team: Team) -> None:
    """Refuse to compile where it cannot work, before torch says so in a hundred lines."""
    if device.type != "cuda" or team.size > 1:
        where = f"{team.size} processes" if team.size > 1 else "the CPU"
        raise TrainingError(f"compiling for {where}: expected one process on a GPU")
    if find_spec("triton") is None:
        raise TrainingError("compiling needs Triton, which is not installed: pip install triton")
    named = os.environ.get("CC")  # Triton then tries no other
    if not any(map(shutil.which, [named] if named else ["gcc", "clang"])):
        raise TrainingError(
            "compiling needs a C compiler: expected gcc or clang, or CC to name one"
        )


def _compared(key: str, value: Any) -> Any:
    """What of a run's identity has to be the same: of weights, not where they lie."""
    if key == "recipe" and value:  # a state of before a field came has its default
        return asdict(Recipe()) | value
    if key == "teacher":
        return [one["sha256"] for one in listed_teachers(value)]
    return value["sha256"] if key == "init" and value else value


def listed_teachers(stored: Any) -> list[dict[str, str]]:
    """A run's teachers as its files name them: a list, but of before there were several one alone.

    Each has its `weights`, by path or name, and their `sha256`.
    """
    return stored if isinstance(stored, list) else [stored] if stored else []


def _epochs(history: Sequence[dict[str, float]]) -> list[metrics.Epoch]:
    return [metrics.Epoch(**row) for row in history]  # type: ignore[arg-type]

"""One step of a training: forward, loss, backward, update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from nin_edge.kernels import compile_network
from nin_edge.network import NetworkConfig, NiN
from nin_edge.predict import InputTransform
from nin_edge.tensorfile import check_tensors
from nin_edge.training.batches import Stream
from nin_edge.training.finetune import keep_frozen_in_eval
from nin_edge.training.memory import give_back_memory
from nin_edge.training.objective import Objective
from nin_edge.training.optimizers import make_optimizers, one_cycle
from nin_edge.training.plan import Plan
from nin_edge.training.recipe import Recipe
from nin_edge.training.workers import Workers
from nin_edge_runtime.preprocessing import Preprocessing

_ACTIVATION_BYTES: Final = 2 * 10**8  # of the convolutions' outputs in a micro-batch
_WEIGHTS: Final = "weights/"  # prefixes of the tensors in a training state
_MOMENTA: Final = "momenta/"


def microbatch_size(config: NetworkConfig, side: int) -> int:
    """Images whose activations fit into memory together, on a CPU; at least 2.

    A larger batch is split into micro-batches whose gradients are added. Batch normalisation takes
    the statistics of each ("ghost" batches, Hoffer et al., arXiv:1705.08741).

    Args:
        config: the network.
        side: side of the images in pixels.
    """
    sides = replace(config, size=side).map_sides()
    values = sum(
        outputs * side**2
        for shapes, side in zip(config.layer_shapes(), sides, strict=True)
        for _, outputs, _ in shapes
    )
    return max(2, _ACTIVATION_BYTES // (4 * values))


class Learner:
    """A network and what updates its weights."""

    def __init__(
        self,
        network: NiN,
        recipe: Recipe,
        plan: Plan,
        preprocessing: Preprocessing,
        objective: Objective,
        *,
        workers: Workers,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        """Put the network on the device and make its optimizers.

        Args:
            network: the network to train; its frozen weights do not require gradients.
            recipe: how to train it.
            plan: number of steps, and the side of their images.
            preprocessing: how pixels become the network's input.
            objective: the loss.
            workers: the processes that share each step.
            device: device to compute on.
            compiled: whether to compile the network with torch.compile.
        """
        self.network: NiN = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._recipe, self._plan, self._objective = recipe, plan, objective
        self._workers, self._device = workers, device
        self._transform = InputTransform(preprocessing, device)
        self._optimizers = make_optimizers(self.network, recipe)
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.fp16)
        self._forward = compile_network(self.network) if compiled else workers.wrap(self.network)

    def train_mode(self) -> None:
        """Put the network into training mode, except for its frozen blocks."""
        self.network.train()
        keep_frozen_in_eval(self.network, self._recipe.frozen_blocks)

    def step(self, step: int, pixels: Tensor, targets: Tensor) -> Tensor:
        """Update the weights once.

        Args:
            step: the step, counted from 0.
            pixels: this process's share of the batch, uint8 (N, S, S, C).
            targets: int64 (N,) classes, or float32 (N, K) probabilities.

        Returns:
            The mean loss of this process's share, a scalar on the device.
        """
        if step == self._plan.low_resolution_steps:
            give_back_memory()  # the blocks of low-resolution steps do not fit
        rate = one_cycle(step, self._plan.steps, self._recipe.warmup)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate
        self.network.zero_grad(set_to_none=True)
        self._seed_dropout(step)
        loss = self._accumulate_gradients(pixels, targets, self._plan.side(step))
        for optimizer in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        return loss

    def _seed_dropout(self, step: int) -> None:
        # torch's generator, which dropout draws from, starts anew in each step and process.
        stream = [self._recipe.seed, step, Stream.DROPOUT, self._workers.rank]
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))

    def _accumulate_gradients(self, pixels: Tensor, targets: Tensor, side: int) -> Tensor:
        """Forward and backward in micro-batches; returns the mean loss of all of them."""
        count = 1
        if self._device.type == "cpu":
            largest = microbatch_size(self.network.config, side)
            # At least two images each: batch normalisation needs a variance.
            count = max(1, min(math.ceil(len(pixels) / largest), len(pixels) // 2))
        total = torch.zeros((), device=self._device)
        for first in range(count):
            # A batch has the order of the data set, by class. Taking every `count`-th image gives
            # each micro-batch all classes; a contiguous part's statistics would be of a few.
            part = slice(first, None, count)
            with self._workers.gradient_sync(self._forward, last=first == count - 1):
                weight = len(targets[part]) / len(targets)
                loss = self._loss(pixels[part], targets[part], side) * weight
                self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _loss(self, pixels: Tensor, targets: Tensor, side: int) -> Tensor:
        """The mean loss of augmented images, resized to the given side."""
        inputs = self._transform(pixels)  # (N, S, S, C) -> (N, C, S, S)
        if side != inputs.shape[-1]:
            inputs = nn.functional.interpolate(
                inputs, [side, side], mode="bilinear", antialias=True
            )
        recipe = self._recipe
        dtype = torch.float16 if recipe.fp16 else torch.bfloat16
        with torch.autocast(self._device.type, dtype=dtype, enabled=recipe.fp16 or recipe.bf16):
            logits = self._forward(inputs).float()
            taught = self._objective.teach(pixels)
        return self._objective(logits, targets, taught)

    def is_finite(self) -> bool:
        """Whether all weights and statistics are finite."""
        return all(value.isfinite().all() for value in self.network.state_dict().values())

    def statistics(self) -> Iterator[Tensor]:
        """The running means and variances, which each process takes of its own share."""
        return (buffer for buffer in self.network.buffers() if buffer.is_floating_point())

    def weights(self) -> dict[str, Tensor]:
        """A copy of the current weights and statistics, by name."""
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def state_tensors(self) -> dict[str, Tensor]:
        """Weights, statistics and momenta, for a training state."""
        tensors = {_WEIGHTS + name: value for name, value in self.network.state_dict().items()}
        for name, weight, optimizer in self._weights_with_momentum():
            momentum = optimizer.state.get(weight, {}).get("momentum_buffer")
            # There is none before the first step, which is the same as 0.
            tensors[_MOMENTA + name] = torch.zeros_like(weight) if momentum is None else momentum
        return tensors

    def scaler_state(self) -> dict[str, Any]:
        """State of the gradient scaler, for a training state."""
        return self._scaler.state_dict()

    def restore(self, tensors: Mapping[str, Tensor], scaler_state: dict[str, Any]) -> None:
        """Take over what `state_tensors` and `scaler_state` gave.

        Raises:
            ValueError: a tensor is missing, or has another shape or type, or odd values.
        """
        check_tensors(tensors, self.state_tensors())
        self._scaler.load_state_dict(scaler_state)
        self.network.load_state_dict(
            {
                name.removeprefix(_WEIGHTS): value
                for name, value in tensors.items()
                if name.startswith(_WEIGHTS)
            }
        )
        for name, weight, optimizer in self._weights_with_momentum():
            # In the weight's memory format, which the file does not keep.
            momentum = torch.empty_like(weight).copy_(tensors[_MOMENTA + name])
            optimizer.state[weight]["momentum_buffer"] = momentum

    def _weights_with_momentum(self) -> Iterator[tuple[str, Tensor, torch.optim.Optimizer]]:
        names = {weight: name for name, weight in self.network.named_parameters()}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for weight in group["params"] if group["momentum"] else ():
                    yield names[weight], weight, optimizer

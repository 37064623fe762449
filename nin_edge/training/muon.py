"""Muon: SGD whose momentum is orthogonalised, so that no direction of a weight matrix is neglected.

From Keller Jordan's "Muon: An optimizer for hidden layers" (kellerjordan.github.io/posts/muon), as
used for CIFAR-10 in his cifar10-airbench. It is for convolutions whose output is normalised: there
the length of the weights does not matter, so it is set anew each step, and the learning rate is the
part of the weights that a step turns over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor, nn

# Of an odd polynomial that drives singular values from 0..1 towards 1, to between 0.7 and 1.2.
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_STEPS: Final = 3  # of the iteration: more come closer to orthogonal, and train no better


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices of the same singular vectors whose singular values are nearly equal.

    By the Newton-Schulz iteration, in the type that is given.

    Args:
        matrices: (B, M, N), floating point.

    Returns:
        (B, M, N), singular values of about 1.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # the smaller Gram matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        # a x + (b gram + c gram gram) x, in few kernels: a GPU waits for Python to launch them.
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum; its state is a `momentum_buffer` a weight, as of SGD."""

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, momentum: float, *, bf16: bool = False
    ) -> None:
        """Optimise `weights`, each (outputs, inputs, k, k), followed by a normalisation.

        Args:
            weights: at least one.
            lr: length of a step, in lengths of the weight.
            momentum: of Nesterov's kind, 0 to 1.
            bf16: orthogonalise in bfloat16, which is precise enough.
        """
        super().__init__(weights, {"lr": lr, "momentum": momentum})
        self._type = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; weights of one shape go through the iteration together."""
        assert closure is None
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for weight in group["params"]:
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"]
                torch.add(weight.grad, momentum, alpha=group["momentum"], out=momentum)
                ahead = weight.grad.add(momentum, alpha=group["momentum"])  # (O, I, k, k)
                alike.setdefault((len(weight), weight[0].numel()), []).append((weight, ahead))
            for shape, pairs in alike.items():
                stacked = torch.stack([ahead.flatten(1) for _, ahead in pairs])  # (B, O, I k k)
                updates = orthogonalised(stacked.to(self._type)).float()
                length = math.sqrt(min(shape))  # that of an update, too
                for (weight, _), update in zip(pairs, updates, strict=True):
                    weight.mul_(length / weight.norm())
                    weight.add_(update.view_as(weight), alpha=-group["lr"])

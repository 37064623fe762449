"""Muon: SGD with orthogonalised momentum, so that no direction of a weight matrix is neglected.

From Keller Jordan's "Muon: An optimizer for hidden layers" (kellerjordan.github.io/posts/muon), as
used for CIFAR-10 in his cifar10-airbench. It is for convolutions followed by batch normalisation:
the norm of their weights does not matter, so each step resets it, and the learning rate is the size
of a step relative to the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor, nn

# Coefficients of an odd polynomial that brings singular values of 0 to 1 to between 0.7 and 1.2.
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 3  # more come closer to orthogonal, but do not train better


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, approximately: equal singular vectors, values of about 1.

    Computed by the Newton-Schulz iteration, in the type of the matrices.

    Args:
        matrices: floating point (B, M, N).

    Returns:
        (B, M, N).
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # for the smaller Gram matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        # a x + (b gram + c gram gram) x, in few kernels: on a GPU, launching them takes longest.
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum; each weight's state is a `momentum_buffer`, as in SGD."""

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, momentum: float, *, bf16: bool = False
    ) -> None:
        """Make an optimizer.

        Args:
            weights: weights of convolutions that batch normalisation follows, (O, I, k, k) each.
            lr: norm of a step relative to the norm of the weight.
            momentum: Nesterov momentum, 0 to below 1.
            bf16: whether to orthogonalise in bfloat16, which is precise enough.
        """
        super().__init__(weights, {"lr": lr, "momentum": momentum})
        self._type = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all weights; those of one shape are orthogonalised together."""
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
                length = math.sqrt(min(shape))  # the norm of an orthogonal matrix, so of an update
                for (weight, _), update in zip(pairs, updates, strict=True):
                    weight.mul_(length / weight.norm())
                    weight.add_(update.view_as(weight), alpha=-group["lr"])

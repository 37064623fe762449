from __future__ import annotations

import pytest
import torch
from torch import nn

from nin_edge.training.muon import Muon, orthogonalised

SINGULAR_VALUES = (0.5, 1.3)
"""What three steps of the iteration bring well-conditioned matrices' singular values between."""
BF16_TOLERANCE = 0.05
"""Largest difference of an entry between bfloat16 and float32."""


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 40), (2, 40, 16)])
def test_singular_values_come_close_to_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.3, 1, min(shape[1:]))
    found = orthogonalised(100 * left @ torch.diag(values) @ right)
    assert found.shape == shape
    singular = torch.linalg.svdvals(found)
    assert singular.min() >= SINGULAR_VALUES[0]
    assert singular.max() <= SINGULAR_VALUES[1]
    # Its singular vectors are those of the matrix: what is left is symmetric.
    turned = left.mT @ found @ right.mT
    torch.testing.assert_close(turned, turned.mT, rtol=0, atol=1e-4)


def test_bfloat16_gives_nearly_the_same() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(4, 24, 60)
    coarse = orthogonalised(matrices.bfloat16())
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(
        coarse.float(), orthogonalised(matrices), rtol=0, atol=BF16_TOLERANCE
    )


def test_no_gradient_gives_no_update() -> None:
    assert torch.isfinite(orthogonalised(torch.zeros(1, 4, 6))).all()


def test_a_step_keeps_the_length_and_goes_down() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 3, bias=False)
    optimizer = Muon([layer.weight], lr=0.05, momentum=0.6)
    images, target = torch.randn(16, 8, 6, 6), torch.randn(16, 12, 4, 4)
    norm = nn.BatchNorm2d(12)
    losses = []
    for _ in range(30):
        loss = nn.functional.mse_loss(norm(layer(images)), target)
        losses.append(loss.item())
        layer.zero_grad()
        loss.backward()
        optimizer.step()
        assert 0.8 < layer.weight.norm() / 12**0.5 < 1.2
    assert losses[-1] < 0.9 * losses[0]


def test_weights_of_one_shape_are_updated_as_if_alone() -> None:
    torch.manual_seed(0)
    together = [nn.Parameter(torch.randn(6, 4, 3, 3)) for _ in range(2)]
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    for pair in zip(together, alone, strict=True):
        gradient = torch.randn(6, 4, 3, 3)
        for weight in pair:
            weight.grad = gradient.clone()
    Muon(together, lr=0.1, momentum=0.6).step()
    for weight in alone:
        Muon([weight], lr=0.1, momentum=0.6).step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)

"""afd-attention: Pay Attention to Features."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.methods.afd_attention import AFDAttention, afd_loss
from tests.methods.given_later_features import batch, made, rand, same_value_and_gradient


def test_afd_loss() -> None:
    scores = torch.rand(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def slow(student: Tensor, target: Tensor) -> float:
        total = 0.0
        for i in range(2):
            mass = sum(scores[i].tolist())
            for c in range(3):
                s, t = student[i, c].flatten().tolist(), target[i, c].flatten().tolist()
                ns, nt = (math.sqrt(sum(v * v for v in x)) + 1e-6 for x in (s, t))
                gap = sum((a / ns - b / nt) ** 2 for a, b in zip(s, t, strict=True)) / len(s)
                total += scores[i, c].item() / mass * gap
        return total / 2

    loss = lambda s, t: afd_loss(s, t, scores)  # noqa: E731
    same_value_and_gradient(loss, slow, rand(2, 3, 2, 2), rand(2, 3, 2, 2, seed=1))


def test_afd_attends_to_the_teacher_and_takes_the_mean_over_stages() -> None:
    method = made(AFDAttention, weight=500.0)
    s, t = method.student(batch().inputs), method.teach(batch())
    each = [
        afd_loss(a, b, attend(b.mean((2, 3)))).item()
        for attend, a, b in zip(method.attention, s.features, t.features, strict=True)
    ]
    assert method.distill(s, t, batch())["afd"].item() == pytest.approx(500 * sum(each) / 3, rel=1e-5)
    wide = method.attention[2][0]
    assert wide.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05) and not wide.bias.any()
    dead = torch.zeros(1, 2, 2, 2, requires_grad=True)
    afd_loss(dead, torch.zeros(1, 2, 2, 2), torch.ones(1, 2)).backward()
    assert torch.isfinite(dead.grad).all(), "a dead channel has no direction"
    with pytest.raises(ValueError, match=r"resnet8 has stages.*wrn_16_2.*method="):
        made(AFDAttention, teacher_name="cifar_wrn_16_2")

"""at: Paying More Attention to Attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.methods.at import attention_loss
from tests.methods.given_maps import first_batch, halve, made, random, same, slow_attention


def test_at_is_the_mean_squared_gap_of_unit_attention_maps() -> None:
    def slow(s: Tensor, t: Tensor) -> Tensor:
        gap = slow_attention(halve(s)) - slow_attention(t)
        return sum(g * g for row in gap for g in row) / gap.numel()

    same(attention_loss, slow, random(2, 3, 4, 4), random(2, 5, 2, 2, seed=1))


def test_at_takes_every_stage_and_not_the_stem() -> None:
    method, batch = made("at", "method.weight=1000"), first_batch()
    method.eval()
    student, teacher = method.student(batch.inputs), method.teach(batch)
    student.stem = teacher.stem = None
    wanted = torch.stack(
        [attention_loss(s, t) for s, t in zip(student.features, teacher.features, strict=True)]
    ).sum()
    assert method.distill(student, teacher, batch)["at"].item() == pytest.approx(
        1000 * wanted.item(), rel=1e-5
    )

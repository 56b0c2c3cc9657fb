"""tf-kd-reg: Revisiting Knowledge Distillation via Label Smoothing Regularization."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from distill.methods.tf_kd_reg import virtual_teacher, virtual_teacher_loss
from tests.slow import draw, gradient_agrees, softmax


def test_the_virtual_teacher_is_tempered_and_the_student_is_not() -> None:
    logits, labels = draw(3, 100), [7, 0, 99]

    def slow(z: torch.Tensor) -> float:
        total = 0.0
        for row, label in zip(z.tolist(), labels, strict=True):
            p = softmax([0.99 if c == label else 0.01 / 99 for c in range(100)], 20.0)
            total += sum(a * math.log(a / b) for a, b in zip(p, softmax(row), strict=True))
        return total / 3

    rows = virtual_teacher(100, 0.99, 20.0).double()
    target = torch.tensor(labels)
    assert rows.max() / rows.min() < 1.06  # all but uniform: the trap of tempering a distribution
    assert virtual_teacher_loss(logits, target, rows).item() == pytest.approx(slow(logits), rel=1e-5)
    gradient_agrees(lambda z: virtual_teacher_loss(z, target, rows), slow, logits[:, :100], 1e-6)
    mean = torch.nn.KLDivLoss(reduction="mean")(F.log_softmax(logits, 1), rows[target])
    assert virtual_teacher_loss(logits, target, rows).item() == pytest.approx(100 * mean.item(), rel=1e-6)

"""adv-logits, beside plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.methods.adv_logits import discriminator_loss, l1_loss, student_loss
from tests.methods.given_adversarial import logits, sigmoid
from tests.slow import mean, softmax


def slow_class(rows: Tensor, labels: Tensor) -> float:
    return mean(-math.log(softmax(row[:-1])[y]) for row, y in zip(rows.tolist(), labels.tolist(), strict=True))


def test_losses_of_logits_and_their_discriminator_by_hand() -> None:
    student, teacher, labels = logits(4, 6), logits(4, 6, seed=1), torch.tensor([0, 4, 2, 2])
    real = mean(-math.log(sigmoid(row[-1])) for row in teacher.tolist())
    fake = mean(-math.log(1 - sigmoid(row[-1])) for row in student.tolist())
    passing = mean(-math.log(sigmoid(row[-1])) for row in student.tolist())
    judged = real + fake + slow_class(teacher, labels) + slow_class(student, labels)
    assert discriminator_loss(student, teacher, labels).item() == pytest.approx(judged, rel=1e-6)
    assert student_loss(student, labels).item() == pytest.approx(passing + slow_class(student, labels), rel=1e-6)
    flat = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    assert l1_loss(student, teacher).item() == pytest.approx(mean(abs(a - b) for a, b in flat))
    assert torch.autograd.gradcheck(lambda z: student_loss(z, labels), student.clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda z: discriminator_loss(z, teacher, labels), student.clone().requires_grad_()
    )

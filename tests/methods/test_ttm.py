"""Transformed teacher matching against the authors' formula, which raises probabilities to a power and norms them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods.ttm import matching_loss
from tests.methods.arithmetic import kl, logits, softmax

STUDENT, TEACHER = logits(0), logits(1)


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_is_the_divergence_from_the_powered_teacher(weighted: bool) -> None:
    powered = softmax(TEACHER.numpy()) ** 0.3
    total = powered.sum(-1)
    rows = kl(powered / total[:, None], softmax(STUDENT.numpy())) * (total if weighted else 1)
    assert matching_loss(STUDENT, TEACHER, 0.3, weighted).item() == pytest.approx(rows.mean(), rel=1e-12)


def test_an_exponent_is_a_temperature_of_the_teacher_alone() -> None:
    expected = kl(softmax(TEACHER.numpy(), 4.0), softmax(STUDENT.numpy())).mean()
    assert matching_loss(STUDENT, TEACHER, 0.25, False).item() == pytest.approx(expected, rel=1e-12)


def test_the_weight_has_no_gradient_of_its_own() -> None:
    leaf = STUDENT.clone().requires_grad_()
    matching_loss(leaf, TEACHER, 0.3, True).backward()
    powered = softmax(TEACHER.numpy()) ** 0.3
    gap = softmax(STUDENT.numpy()) * powered.sum(-1, keepdims=True) - powered
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), gap / len(gap), rtol=1e-10)


def test_confident_nets_stay_finite() -> None:
    sure = torch.eye(6)[:3] * 400
    assert torch.isfinite(matching_loss(-sure, sure, 0.1, True))

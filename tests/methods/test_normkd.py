"""NormKD: a temperature for each sample, from the spread of its own logits."""

from __future__ import annotations

import numpy as np
import pytest

from distill.methods.normkd import normalised_loss
from tests.methods.arithmetic import kl, logits, softmax

STUDENT, TEACHER = logits(0), logits(1)


def slow(student: np.ndarray, teacher: np.ndarray, norm: float) -> float:
    rows = []
    for own, taught in zip(student, teacher, strict=True):
        ours, theirs = norm * own.std(ddof=1), norm * taught.std(ddof=1)
        rows.append(theirs**2 * kl(softmax(taught, theirs), softmax(own, ours)))
    return float(np.mean(rows))


def test_loss_is_each_samples_own_soft_targets() -> None:
    expected = slow(STUDENT.numpy(), TEACHER.numpy(), 2.0)
    assert normalised_loss(STUDENT, TEACHER, 2.0).item() == pytest.approx(expected, rel=1e-10)


def test_gradient_runs_through_the_students_own_temperature() -> None:
    leaf = STUDENT.clone().requires_grad_()
    normalised_loss(leaf, TEACHER, 2.0).backward()
    direction = logits(7)
    sides = [slow((STUDENT + sign * 1e-6 * direction).numpy(), TEACHER.numpy(), 2.0) for sign in (1, -1)]
    assert leaf.grad is not None
    assert (leaf.grad * direction).sum().item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5)


def test_the_students_scale_does_not_matter() -> None:
    assert normalised_loss(3 * STUDENT, TEACHER, 2.0).item() == pytest.approx(
        normalised_loss(STUDENT, TEACHER, 2.0).item(), rel=1e-12
    )

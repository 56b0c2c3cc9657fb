"""Refined logits against the authors' formulas in loops over samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods.rld import confidence_loss, masked_loss
from tests.methods.arithmetic import kl, logits, softmax

STUDENT, TEACHER, LABELS = logits(0), logits(1), torch.tensor([0, 5, 2, 2, 3])


def test_confidence_is_the_labels_against_the_teachers_surest() -> None:
    rows = []
    for student, teacher, label in zip(STUDENT.numpy(), TEACHER.numpy(), LABELS.tolist(), strict=True):
        sure, own = softmax(teacher, 1.5).max(), softmax(student, 1.5)[label]
        rows.append(kl(np.array([sure, 1 - sure]), np.array([own, 1 - own])))
    expected = 1.5**2 * np.mean(rows)
    assert confidence_loss(STUDENT, TEACHER, LABELS, 1.5).item() == pytest.approx(expected, rel=1e-10)


def test_correlation_leaves_out_label_and_all_above_it() -> None:
    rows = []
    for student, teacher, label in zip(STUDENT.numpy(), TEACHER.numpy(), LABELS.tolist(), strict=True):
        below = teacher < teacher[label]
        rows.append(kl(softmax(teacher[below], 4.0), softmax(student[below], 4.0)) if below.any() else 0.0)
    expected = 4.0**2 * np.mean(rows)
    assert masked_loss(STUDENT, TEACHER, LABELS, 4.0).item() == pytest.approx(expected, rel=1e-6)


def test_a_label_that_the_teacher_puts_last_has_no_correlation_and_no_gradient() -> None:
    teacher, leaf = torch.tensor([[0.0, 1.0, 2.0]]), torch.randn(1, 3, requires_grad=True)
    loss = masked_loss(leaf, teacher, torch.tensor([0]), 4.0)
    loss.backward()
    assert loss.item() == 0.0 and leaf.grad is not None and not leaf.grad.any()


def test_a_wrong_teacher_does_not_push_the_student_to_its_mistake() -> None:
    teacher, leaf = torch.tensor([[5.0, 1.0, 0.0, -1.0]]), torch.zeros(1, 4, requires_grad=True)
    masked_loss(leaf, teacher, torch.tensor([1]), 1.0).backward()
    assert leaf.grad is not None and leaf.grad[0, 0] == 0 and leaf.grad[0, 2] < 0

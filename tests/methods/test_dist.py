"""dist: Knowledge Distillation from A Stronger Teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods import dist
from tests.methods.given_response import STUDENT, TEACHER, Rows, T, gradient
from tests.slow import mean, softmax


def test_dist_against_numpys_correlations() -> None:
    teacher = np.array([softmax(row, T) for row in TEACHER.tolist()])

    def inter(s: Rows) -> float:
        student = np.array([softmax(row, T) for row in s])
        return T**2 * (1 - mean([np.corrcoef(student[i], teacher[i])[0, 1] for i in range(len(s))]))

    def intra(s: Rows) -> float:
        student = np.array([softmax(row, T) for row in s])
        return T**2 * (1 - mean([np.corrcoef(student[:, k], teacher[:, k])[0, 1] for k in range(6)]))

    # the 1e-8 beside the product of norms shifts the sixth digit of small classes
    for k, slow in enumerate((inter, intra)):
        leaf = STUDENT.clone().requires_grad_()
        value = dist.relation_losses(leaf, TEACHER, T)[k]
        assert value.item() == pytest.approx(slow(STUDENT.tolist()), rel=1e-5)
        value.backward()
        v = torch.randn(STUDENT.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        slope = (slow((STUDENT + 1e-5 * v).tolist()) - slow((STUDENT - 1e-5 * v).tolist())) / 2e-5
        assert (gradient(leaf) * v).sum().item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("rows", [1, 4])
def test_dist_is_finite_for_constant_predictions_and_for_a_batch_of_one(rows: int) -> None:
    flat = torch.zeros(rows, 6, requires_grad=True)
    inter, intra = dist.relation_losses(flat, TEACHER[:rows].float(), 4.0)
    assert inter.item() == intra.item() == 16
    (inter + intra).backward()
    assert flat.grad is not None and torch.isfinite(flat.grad).all()

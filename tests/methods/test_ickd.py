"""ICKD against loops."""

from __future__ import annotations

import pytest
import torch

from distill.methods.ickd import correlation_loss


def slow(student: list, teacher: list) -> float:
    """[B][C][positions] of both nets -> the loss, one inner product at a time."""
    total, channels = 0.0, len(student[0])
    for one, other in zip(student, teacher, strict=True):
        rows = []
        for maps in (one, other):
            gram = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in maps] for p in maps]
            rows.append([[value / sum(v * v for v in row) ** 0.5 for value in row] for row in gram])
        total += sum((rows[0][i][j] - rows[1][i][j]) ** 2 for i in range(channels) for j in range(channels))
    return total / (len(student) * channels)


def test_correlations_against_loops_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, 2).double().requires_grad_(), torch.randn(2, 3, 4, 4).double()
    loss = correlation_loss(student, teacher)
    target = teacher.flatten(2).tolist()
    assert loss.item() == pytest.approx(slow(student.flatten(2).tolist(), target), rel=1e-10)
    loss.backward()
    for place in ((0, 0, 0, 1), (1, 2, 1, 0)):
        values = []
        for nudge in (1e-6, -1e-6):
            moved = student.detach().clone()
            moved[place] += nudge
            values.append(slow(moved.flatten(2).tolist(), target))
        assert student.grad[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_equal_correlations_cost_nothing_whatever_the_scale() -> None:
    maps = torch.rand(2, 3, 4, 4)
    assert correlation_loss(3 * maps, maps).item() == pytest.approx(0.0, abs=1e-10)

"""rkd: Relational Knowledge Distillation."""

from __future__ import annotations

import math

import pytest
import torch

from distill.methods import rkd
from tests.methods.given_relation import STUDENT, TEACHER, Vectors, agrees, dot, minus, rows, squared, unit
from tests.slow import mean


def smooth_l1(a: float, b: float) -> float:
    gap = abs(a - b)
    return 0.5 * gap**2 if gap < 1 else gap - 0.5


def slow_distance(s: Vectors, t: Vectors) -> float:
    def relative(v: Vectors) -> Vectors:
        d = [[math.sqrt(squared(a, b)) for b in v] for a in v]
        above = [x for row in d for x in row if x > 0]
        return [[x / mean(above) for x in row] for row in d]

    d_s, d_t, n = relative(s), relative(t), len(s)
    return mean([smooth_l1(d_s[i][j], d_t[i][j]) for i in range(n) for j in range(n)])


def slow_angle(s: Vectors, t: Vectors) -> float:
    def cosine(v: Vectors, j: int, i: int, k: int) -> float:
        if i == j or k == j:
            return 0.0
        return dot(unit(minus(v[i], v[j])), unit(minus(v[k], v[j])))

    n = range(len(s))
    return mean([smooth_l1(cosine(s, j, i, k), cosine(t, j, i, k)) for j in n for i in n for k in n])


def test_rkd_distances_and_angles_of_all_triplets_against_loops() -> None:
    agrees(lambda x: rkd.rkd_losses(x, TEACHER)[0], lambda x: slow_distance(rows(x), rows(TEACHER)), STUDENT)
    agrees(lambda x: rkd.rkd_losses(x, TEACHER)[1], lambda x: slow_angle(rows(x), rows(TEACHER)), STUDENT)


@pytest.mark.parametrize("equal", [[0, 1], [0, 1, 2, 3, 4]])
def test_rkd_has_modest_gradients_where_embeddings_are_equal(equal: list[int]) -> None:
    """Neither NaN, as of a root at 0, nor the 1e12 of a division by a clamped length."""
    student = STUDENT.float()
    student[equal] = student[equal[0]].clone()
    student.requires_grad_()
    distance, angle = rkd.rkd_losses(student, TEACHER.float())
    (25 * distance + 50 * angle).backward()
    assert torch.isfinite(distance) and torch.isfinite(angle)
    assert student.grad is not None and student.grad.abs().max() < 1000
    teacher = TEACHER.float()
    teacher[equal] = teacher[equal[0]].clone()
    assert all(torch.isfinite(term) for term in rkd.rkd_losses(STUDENT.float(), teacher))


def test_rkd_takes_the_mean_over_distances_above_zero() -> None:
    points = torch.tensor([[0.0], [0.0], [3.0]])
    relative = rkd.relative(rkd.relations(points)[0])
    assert relative.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]

"""sp: Similarity-Preserving Knowledge Distillation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.methods import sp
from tests.methods.given_relation import Vectors, agrees, dot, normal, rows, squared, unit


def test_sp_against_loops_on_maps_of_different_shapes() -> None:
    student, teacher = normal(2, 4, 2, 3, 3), normal(3, 4, 5, 2, 2)

    def similarities(v: Vectors) -> Vectors:
        return [unit([dot(a, b) for b in v]) for a in v]

    def slow(x: Tensor) -> float:
        pairs = zip(similarities(rows(x)), similarities(rows(teacher)), strict=True)
        return sum(squared(a, b) for a, b in pairs) / 16

    agrees(lambda x: sp.sp_loss(x, teacher), slow, student)


def test_sp_normalises_rows_and_not_the_matrix() -> None:
    made = sp.similarities(normal(2, 4, 2, 3, 3))
    assert made.norm(dim=1).tolist() == pytest.approx([1] * 4)
    scaled = normal(2, 4, 2, 3, 3)
    scaled[0] *= 10  # one row's length drops out of its own row alone
    again = sp.similarities(scaled)
    assert torch.allclose(again[0, 1:] / again[0, 1], made[0, 1:] / made[0, 1])

"""cc: Correlation Congruence for Knowledge Distillation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.methods import cc
from distill.models import Outputs
from tests.methods.given_relation import (
    STUDENT,
    TEACHER,
    Vectors,
    agrees,
    dot,
    method,
    minus,
    normal,
    rows,
    squared,
    unit,
)
from tests.slow import mean


def test_cc_of_the_tables_multiplies_the_gaps_of_neighbours() -> None:
    teacher = normal(4, 5, 3)

    def slow(x: Tensor) -> float:
        gaps = [[abs(d) for d in minus(a, b)] for a, b in zip(rows(x), rows(teacher), strict=True)]
        return mean([dot(gaps[i], gaps[i + 1]) for i in range(4)])

    agrees(lambda x: cc.neighbour_loss(x, teacher), slow, STUDENT)
    swapped = [1, 0, 2, 3, 4]
    assert cc.neighbour_loss(STUDENT[swapped], teacher[swapped]) != cc.neighbour_loss(STUDENT, teacher)


def test_cc_kernel_is_the_gaussian_cut_after_its_order() -> None:
    def gaussian(v: Vectors, order: int | None) -> Vectors:
        def entry(a: list[float], b: list[float]) -> float:
            if order is None:
                return math.exp(-0.4 * squared(unit(a), unit(b)))
            terms = [(0.8 * dot(unit(a), unit(b))) ** p / math.factorial(p) for p in range(order + 1)]
            return math.exp(-0.8) * sum(terms)

        return [[entry(a, b) for b in v] for a in v]

    exact = torch.tensor(gaussian(rows(STUDENT), None), dtype=torch.float64)
    assert torch.allclose(cc.kernel(STUDENT, 0.4, 25), exact)

    def slow(x: Tensor) -> float:
        pairs = zip(gaussian(rows(x), 2), gaussian(rows(TEACHER), 2), strict=True)
        return sum(squared(a, b) for a, b in pairs) / 25

    agrees(lambda x: cc.kernel_loss(x, TEACHER, 0.4, 2), slow, STUDENT)


def test_cc_names_its_two_forms_and_trains_both_embeddings_of_the_first() -> None:
    tables, paper = method("cc"), method("cc-kernel")
    assert (tables.form, tables.weight, paper.form, paper.weight) == ("neighbours", 0.02, "kernel", 100.0)
    assert tables.embed_student.in_features == 64 and tables.embed_teacher.in_features == 128
    assert tables.embed_student.out_features == tables.embed_teacher.out_features == 128
    own = sum(p.numel() for p in paper.parameters())
    assert own == sum(p.numel() for p in paper.student.parameters())
    s, t = (Outputs(torch.zeros(4, 6), [], normal(k, 4, d).float()) for k, d in ((5, 64), (6, 128)))
    batch = Batch(torch.zeros(4, 3, 1, 1), torch.zeros(4, dtype=torch.long), torch.arange(4))
    tables.distill(s, t, batch)["cc"].backward()
    for head in (tables.embed_student, tables.embed_teacher):
        assert head.weight.grad is not None and head.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="neighbours .* kernel"):
        method("cc", "method.form=taylor")

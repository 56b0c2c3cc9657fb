"""wsld: Rethinking Soft Labels for Knowledge Distillation."""

from __future__ import annotations

import math

import pytest

from distill.methods import wsld
from tests.methods.given_response import LABELS, STUDENT, TEACHER, Rows, T, gradient, logits
from tests.slow import softmax


def test_wsld_against_loops_with_weights_held_fixed() -> None:
    rows = list(zip(STUDENT.tolist(), TEACHER.tolist(), LABELS.tolist(), strict=True))
    weights = [1 - math.exp(-math.log(softmax(a)[y]) / (math.log(softmax(b)[y]) - 1e-7)) for a, b, y in rows]
    assert wsld.sample_weights(STUDENT, TEACHER, LABELS).tolist() == pytest.approx(weights)

    def slow(s: Rows) -> float:
        total = 0.0
        for row, (_, teacher, _), w in zip(s, rows, weights, strict=True):
            pairs = zip(softmax(teacher, T), softmax(row, T), strict=True)
            total -= w * sum(p * math.log(q) for p, q in pairs)
        return T**2 * total / len(s)

    leaf = STUDENT.clone().requires_grad_()
    value = wsld.wsld_loss(leaf, TEACHER, LABELS, T)
    value.backward()
    assert value.item() == pytest.approx(slow(STUDENT.tolist()))
    v = logits(4)
    slope = (slow((STUDENT + 1e-5 * v).tolist()) - slow((STUDENT - 1e-5 * v).tolist())) / 2e-5
    assert (gradient(leaf) * v).sum().item() == pytest.approx(slope, rel=1e-5)

"""nkd: From Knowledge Distillation to Self-Knowledge Distillation."""

from __future__ import annotations

import math
from collections.abc import Iterable

from distill.methods import nkd
from tests.methods.given_response import LABELS, STUDENT, TEACHER, Rows, T, agrees, without
from tests.slow import mean, softmax


def test_nkd_terms_against_loops_and_not_zero_for_equal_nets() -> None:
    def rows(s: Rows) -> Iterable[tuple[list[float], list[float], int]]:
        return zip(s, TEACHER.tolist(), LABELS.tolist(), strict=True)

    def target(s: Rows) -> float:
        return -mean([softmax(b)[y] * math.log(softmax(a)[y]) for a, b, y in rows(s)])

    def others(s: Rows) -> float:
        total = 0.0
        for a, b, y in rows(s):
            pairs = zip(softmax(without(b, y), T), softmax(without(a, y), T), strict=True)
            total -= sum(p * math.log(q) for p, q in pairs)
        return T**2 * total / len(s)

    agrees(lambda s: nkd.weighted_target_loss(s, TEACHER, LABELS), target, STUDENT)
    agrees(lambda s: nkd.spread_non_target_loss(s, TEACHER, LABELS, T), others, STUDENT)
    assert nkd.spread_non_target_loss(TEACHER, TEACHER, LABELS, T) > 1
    assert nkd.spread_non_target_loss(TEACHER[:, :2], TEACHER[:, :2], LABELS % 2, T).item() == 0

"""label-smoothing: Rethinking the Inception Architecture for Computer Vision."""

from __future__ import annotations

import math

import pytest

from distill.methods import label_smoothing
from tests.methods.given_response import LABELS, STUDENT, Rows, agrees, method
from tests.slow import softmax


@pytest.mark.parametrize("spread", ["all", "others"])
def test_label_smoothing_against_an_explicit_target(spread: str) -> None:
    def target(label: int, k: int) -> float:
        if spread == "all":
            return 0.9 * (k == label) + 0.1 / 6
        return 0.9 if k == label else 0.1 / 5

    def slow(s: Rows) -> float:
        total = 0.0
        for row, label in zip(s, LABELS.tolist(), strict=True):
            total -= sum(target(label, k) * math.log(p) for k, p in enumerate(softmax(row)))
        return total / len(s)

    agrees(lambda s: label_smoothing.smoothed_cross_entropy(s, LABELS, 0.1, spread), slow, STUDENT)


def test_label_smoothing_loads_no_teacher_and_refuses_nonsense() -> None:
    built = method("label-smoothing", "method.spread=others")
    assert not built.teachers and built.spread == "others"
    with pytest.raises(ValueError, match="all .* or others"):
        method("label-smoothing", "method.spread=some")
    with pytest.raises(ValueError, match="from 0 to below 1"):
        method("label-smoothing", "method.epsilon=1.0")

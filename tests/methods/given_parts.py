"""What the tests of the first methods share."""

from __future__ import annotations

import math

from torch import Tensor


def softmax(row: list[float], t: float) -> list[float]:
    top = max(row)
    exps = [math.exp((value - top) / t) for value in row]
    return [value / sum(exps) for value in exps]


def slow_kd(student: Tensor, teacher: Tensor, t: float) -> float:
    total = 0.0
    for s, q in zip(student.tolist(), teacher.tolist(), strict=True):
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(softmax(q, t), softmax(s, t), strict=True))
    return t * t * total / len(student)

"""What the tests of the first methods share."""

from __future__ import annotations

import math

from torch import Tensor

from tests.slow import softmax


def slow_kd(student: Tensor, teacher: Tensor, t: float) -> float:
    total = 0.0
    for s, q in zip(student.tolist(), teacher.tolist(), strict=True):
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(softmax(q, t), softmax(s, t), strict=True))
    return t * t * total / len(student)

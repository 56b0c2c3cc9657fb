"""One of several teachers a step (Fukuda et al., Interspeech 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill.batch import Batch
from distill.losses import kd_loss
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.several import SeveralTeachers


class RandomTeacher(SeveralTeachers):
    """ce x CE + kd x T^2 KL(p_m || p_s), m drawn anew for every batch; only that teacher runs.

    The paper's teachers may be drawn unequally (`odds`, by default equal). The draw comes from torch's CPU
    generator, whose state is part of every checkpoint.
    """

    steps_alike = False  # teachers are drawn

    def __init__(self, *nets: *Nets, ce: float, kd: float, temperature: float, odds: Sequence[float]) -> None:
        _, teachers, _ = nets
        super().__init__(*nets, ce=ce, kd=kd, temperature=temperature, drop_last=False)
        if odds and (len(odds) != len(teachers) or min(odds) < 0 or sum(odds) <= 0):
            raise ValueError(
                f"method.odds is {list(odds)}: give {len(teachers)} numbers of at least 0, one a teacher."
            )
        self.odds = torch.tensor([float(value) for value in odds] or [1.0] * len(teachers))

    def teach_all(self, batch: Batch) -> list[Outputs]:
        drawn = int(torch.multinomial(self.odds, 1))  # on the CPU: nothing waits for the device
        return [self.teach(batch, self.teachers[drawn])]

    def learn(self, student: Outputs, teachers: Sequence[Outputs], batch: Batch) -> Losses:
        return {"kd": self.kd * kd_loss(student.logits, teachers[0].logits, self.temperature)}

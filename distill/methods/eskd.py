"""Early-stopped knowledge distillation, ESKD (Cho & Hariharan, ICCV 2019, arXiv:1910.01348)."""

from __future__ import annotations

from typing import Any

from torch import nn

from distill.batch import Batch
from distill.method import Losses, Nets, Phase, Update
from distill.models import FeatureNet, Outputs
from distill.parts.guided import Guided


class ESKD(Guided):
    """A teacher stopped early in its training, and soft targets that stop early in the student's.

    The teacher is trained for `teacher_epochs` of the run's schedule and taken as it then is; 0 takes the
    given, converged one. Soft targets count in the first `share` of the student's epochs; after that the
    labels have the whole weight, ce + kd, and the teacher does not run.
    """

    guide: Any

    def __init__(self, *nets: *Nets, share: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        if not 0 < share <= 1:
            raise ValueError(f"method.share is {share}: soft targets count in a share of the epochs, 0 to 1.")
        self.share = share
        if not self.teacher_epochs:
            self.guide = None

    def teach(self, batch: Batch, teacher: FeatureNet | None = None) -> Outputs:
        return super().teach(batch, teacher or self.guide)

    def loss(self, batch: Batch) -> Losses:
        if self.epoch <= self.share * self.epochs:
            return super().loss(batch)
        return self.supervised(self.student(batch.inputs).logits, batch, weight=self.ce + self.kd)

    def phases(self) -> list[Phase]:
        distill = Phase("distill", [Update("student", self.loss, [self.student])])
        return [self.guide_phase(), distill] if self.guide is not None else [distill]

    def reported(self) -> dict[str, nn.Module]:
        return {"early_teacher": self.guide} if self.guide is not None else {}

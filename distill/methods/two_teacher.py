"""Logits from one teacher, a feature map from another (Chen et al., ISNN 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from distill.batch import Batch
from distill.losses import full_precision, kd_loss
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.heads import conv_regressor, stage
from distill.parts.several import SeveralTeachers


@full_precision
def map_loss(regressed: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two maps [B,C,H,W] over all their elements."""
    return (regressed - target).square().mean()


class TwoTeacher(SeveralTeachers):
    """ce x CE + kd x T^2 KL(p_A || p_s) + weight x mean (r(f_s) - f_B)^2: A is the first teacher, B the second.

    No code by the authors is known; the regressor r and the weight are FitNet's in the CRD tables. Either
    teacher may be of any architecture, and both the same.
    """

    def __init__(self, *nets: *Nets, ce: float, kd: float, temperature: float, weight: float, hint_stage: int) -> None:
        student, teachers, _ = nets
        super().__init__(*nets, ce=ce, kd=kd, temperature=temperature, drop_last=False)
        self.weight, self.hint_stage = weight, hint_stage
        guided, other = stage(student.shapes, hint_stage, student.name), teachers[1]
        try:
            self.regressor = conv_regressor(guided, stage(other.shapes, hint_stage, other.name))
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('.')}; without maps, take method=avg-multi-teacher.") from error

    def learn(self, student: Outputs, teachers: Sequence[Outputs], batch: Batch) -> Losses:
        at = self.hint_stage - 1
        regressed = self.regressor(student.features[at])
        return {
            "kd": self.kd * kd_loss(student.logits, teachers[0].logits, self.temperature),
            "hint": self.weight * map_loss(regressed, teachers[1].features[at]),
        }

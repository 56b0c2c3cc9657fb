"""FitNets: hints for thin deep nets (Romero et al., ICLR 2015, arXiv:1412.6550)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs
from distill.parts.heads import conv_regressor, stage
from distill.parts.products import rows


@full_precision
def _hint_loss(regressed: Tensor, hint: Tensor) -> Tensor:
    """Mean squared error of the regressed student map and the teacher's hint, both [B,C,H,W] (eq. 3)."""
    return F.mse_loss(rows(regressed), rows(hint))


FALL = (0.008, 0.8)
"""Parts of the second phase between which the soft targets' weight falls: epochs 4 and 400 of the authors' 500
(adri-romsor/FitNets, yaml/cifar10_fitnet19_valid.yaml: start 5, saturate 400)."""


class FitNet(Method):
    """Hint phase (eq. 3: student up to the guided layer and regressor), then distillation (eq. 2).

    The soft targets' weight falls linearly in the second phase, from `kd` to `kd_fall` x `kd`: the paper's lambda,
    from 4 to 1 at T = 3; its cross-entropy has no T^2, so that 4 is 4/9 of ours.
    With `hint_epochs=0` and a `weight`, both run jointly, which is what the CRD tables call FitNet.
    """

    def __init__(
        self, *nets: *Nets, kd_fall: float, weight: float, hint_stage: int, hint_epochs: int, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if not weight and not hint_epochs:
            raise ValueError("fitnet would never use its hint: set method.hint_epochs or method.weight above 0.")
        if not (weight or self.ce or self.kd_start):
            raise ValueError("fitnet: with ce=0 and kd=0 nothing is left for the second phase: set method.weight")
        if not 0 <= kd_fall <= 1:
            raise ValueError(f"method.kd_fall is {kd_fall}: give the share of kd that is left at the end, 0 to 1.")
        self.kd_fall = kd_fall
        self.weight, self.hint_stage, self.hint_epochs = weight, hint_stage, hint_epochs
        guided = stage(student.shapes, hint_stage, student.name)
        self.regressor = conv_regressor(guided, stage(self.teacher.shapes, hint_stage, self.teacher.name))

    @property
    def kd(self) -> float:
        """The soft targets' weight in this epoch, by its number: a run may go on in the middle of one."""
        begin, end = FALL
        done = min(max((self.epoch / self.epochs - begin) / (end - begin), 0.0), 1.0)
        return self.kd_start * (1 - (1 - self.kd_fall) * done)

    @kd.setter
    def kd(self, start: float) -> None:
        self.kd_start = start

    def hint(self, student: Outputs, teacher: Outputs) -> Tensor:
        regressed = self.regressor(student.features[self.hint_stage - 1])
        return _hint_loss(regressed, teacher.features[self.hint_stage - 1])

    def hint_only(self, batch: Batch) -> Losses:
        """Loss of the first phase: nothing but the hint."""
        return {"hint": self.hint(self.student(batch.inputs), self.teach(batch))}

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        return {"fitnet": self.weight * self.hint(student, teacher)} if self.weight else {}

    def phases(self) -> list[Phase]:
        hint = Phase(
            "hint",
            [Update("hint", self.hint_only, [self.student, self.regressor])],
            epochs=self.hint_epochs,
            schedule={"milestones": []},
            evaluates=False,
        )
        trains = [self.student, self.regressor] if self.weight else [self.student]
        distill = Phase("distill", [Update("student", self.loss, trains)])
        return [hint, distill] if self.hint_epochs else [distill]

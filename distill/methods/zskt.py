"""Zero-shot knowledge transfer via adversarial belief matching (Micaelli, Storkey, NeurIPS 2019,
arXiv:1905.09768).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision, kl_div
from distill.method import Losses, Nets, Phase, Update
from distill.methods.at import attention_loss
from distill.models import Outputs
from distill.parts.datafree import DataFree
from distill.parts.stages import stage_pairs


@full_precision
def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(p_t || p_s) of logits [B,K], averaged over samples and classes, without T^2 (solver.py, `divergence`).

    The authors leave torch's reduction, a mean over B x K, as it is: a tenth of the mean over B on ten classes.
    """
    return kl_div(student, teacher, temperature) / student.shape[1]


class ZSKT(DataFree):
    """The generator looks for images on which the student differs from the teacher; the student follows
    there.

    Generator: -KL(p_t || p_s) (eq. 1). Student: kd x KL + weight x attention transfer over all stages (eq.
    2-3). As in the authors' code, KL is a mean over samples and classes, one noise batch serves the
    generator's step and all of the student's, the student is in train mode in both, gradients are clipped at
    norm 5, and the generator ends in an affine BatchNorm.
    """

    def __init__(
        self, *nets: *Nets, weight: float, generator_steps: int, student_steps: int, optimizer: Mapping[str, Any],
        generator_optimizer: Mapping[str, Any], **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if weight:
            stage_pairs(student, self.teacher, "zskt with method.weight above 0")
        self.weight, self.generator_steps, self.student_steps = weight, generator_steps, student_steps
        self.optimizer, self.generator_optimizer = dict(optimizer), dict(generator_optimizer)
        self.generator = self.new_generator(last=[nn.BatchNorm2d(student.in_chans)])

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        return divergence(student, teacher, self.temperature)

    def generator_loss(self, batch: Batch) -> Losses:
        inputs = self.generator(batch.inputs)
        student, teacher = self.student_forward(inputs, train=True).logits, self.teacher(inputs).logits
        return {"adversarial": -self.soft_targets(student, teacher)}

    def student_loss(self, batch: Batch) -> Losses:
        with torch.no_grad():
            inputs = self.generator(batch.inputs)
        losses, student, teacher = self.learn(inputs)
        return losses | self.attention(student, teacher) if self.weight else losses

    def attention(self, student: Outputs, teacher: Outputs) -> Losses:
        stages = zip(student.features, teacher.features, strict=True)
        return {"at": self.weight * torch.stack([attention_loss(s, t) for s, t in stages]).sum()}

    def phases(self) -> list[Phase]:
        generator = Update(
            "generator", self.generator_loss, [self.generator], self.generator_optimizer, self.generator_steps
        )
        student = Update("student", self.student_loss, [self.student], self.optimizer, self.student_steps)
        return [Phase("distill", [generator, student], source=self.noise)]

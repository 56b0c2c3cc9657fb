"""Data-free adversarial distillation (DFQ: Choi et al., CVPR workshop 2020, arXiv:2005.04136)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, kl_div
from distill.method import Losses, Nets, Phase, Update
from distill.models import Outputs
from distill.models.generator import Pixels
from distill.parts.datafree import BatchNormInputs, DataFree, balance_loss, certainty_loss, in_mode


@full_precision
def l1_discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean |z_s - z_t| of logits [B,K]: what DFAD (Fang et al. 2019, arXiv:1912.11006, eq. 4) has in place
    of KL.
    """
    return F.l1_loss(student, teacher)


class DFQ(DataFree):
    """The adversarial game with three anchors for the generator: BatchNorm statistics, certainty and balance.

    Generator: -adversarial x KL(p_t || p_s) + bn x statistics + certainty x one-hot + balance x -H(mean
    p_t), one step; student: T^2 KL, `student_steps` steps on fresh noise each, from the generator in eval
    mode. As in the runs of zju-vipa/CMI, from which the weights are, the generator ends in a sigmoid, its
    Adam has betas (0.5, 0.999), and T is 1 in both losses: its scripts say --T 20, but datafree_kd.py puts
    KLDiv() in place of what was made with it. One generator, where the paper also tries several; its
    quantisation of the student is `student.quantize`. `discrepancy=l1` with bn, certainty and balance 0 is
    DFAD, in which the L1 distance of logits takes the place of KL in both losses.
    """

    def __init__(
        self, *nets: *Nets, discrepancy: str, student_steps: int, adversarial: float, bn: float, certainty: float,
        balance: float, optimizer: Mapping[str, Any], generator_optimizer: Mapping[str, Any], **common: Any
    ) -> None:
        _, _, data = nets
        super().__init__(*nets, **common)
        if discrepancy not in ("kl", "l1"):
            raise ValueError(f"method.discrepancy is {discrepancy!r}: it is kl (dfq) or l1 (dfad).")
        self.discrepancy, self.student_steps, self.adversarial = discrepancy, student_steps, adversarial
        self.bn, self.certainty, self.balance = bn, certainty, balance
        self.optimizer, self.generator_optimizer = dict(optimizer), dict(generator_optimizer)
        self.seen = BatchNormInputs(self.teacher, "dfq") if bn else None
        self.generator = self.new_generator(first=256, last=[Pixels(data.mean, data.std)])

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (
            l1_discrepancy(student, teacher)
            if self.discrepancy == "l1"
            else super().soft_targets(student, teacher)
        )

    def generator_loss(self, batch: Batch) -> Losses:
        inputs = self.generator(batch.inputs)
        if self.seen is None:
            return self.terms(inputs, self.teacher(inputs))
        with self.seen:
            teacher = self.teacher(inputs)
        return {"bn": self.bn * self.seen.loss()} | self.terms(inputs, teacher)

    def terms(self, inputs: Tensor, teacher: Outputs) -> Losses:
        """Return the generator's losses on the answers of both nets to inputs [B,C,S,S]."""
        losses = (
            {"adversarial": -self.adversarial * self.disagreement(inputs, teacher)}
            if self.adversarial
            else {}
        )
        if self.certainty:
            losses["certainty"] = self.certainty * certainty_loss(teacher.logits)
        if self.balance:
            losses["balance"] = self.balance * balance_loss(teacher.logits)
        return losses

    def disagreement(self, inputs: Tensor, teacher: Outputs) -> Tensor:
        """Return how far the student, in eval mode, is from the teacher, with gradients to the inputs
        alone.
        """
        measure = kl_div if self.discrepancy == "kl" else l1_discrepancy
        return measure(self.student_forward(inputs, train=False).logits, teacher.logits)

    def student_loss(self, batch: Batch) -> Losses:
        with torch.no_grad(), in_mode(self.generator, train=False):
            inputs = self.generator(torch.randn_like(batch.inputs))
        return self.learn(inputs)[0]

    def phases(self) -> list[Phase]:
        generator = Update("generator", self.generator_loss, [self.generator], self.generator_optimizer)
        student = Update("student", self.student_loss, [self.student], self.optimizer, self.student_steps)
        return [Phase("distill", [generator, student], source=self.noise)]

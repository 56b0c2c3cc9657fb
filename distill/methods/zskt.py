"""Zero-shot knowledge transfer via adversarial belief matching (Micaelli, Storkey, NeurIPS 2019,
arXiv:1905.09768).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distill.data import DataInfo
from distill.losses import kl_div
from distill.method import Batch, Losses, Phase, Update
from distill.methods.at import attention_loss
from distill.models import FeatureNet, Outputs
from distill.parts.datafree import DataFree
from distill.parts.taps import stage_pairs

ADAM = {"name": "adam", "decay": "cosine", "warmup_epochs": 0}


class ZSKT(DataFree):
    """The generator looks for images on which the student differs from the teacher; the student follows
    there.

    Generator: -KL(p_t || p_s) (eq. 1). Student: T^2 KL + weight x attention transfer over all stages (eq.
    2-3). As in the authors' code, one noise batch serves the generator's step and all of the student's, and
    the student is in train mode in both.
    """

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        kd: float = 1.0,
        temperature: float = 1.0,
        weight: float = 250.0,
        latent: int = 100,
        batch_size: int = 128,
        steps: int = 400,
        generator_steps: int = 1,
        student_steps: int = 10,
        optimizer: Mapping[str, Any] | None = None,
        generator_optimizer: Mapping[str, Any] | None = None,
    ) -> None:
        sizes: dict[str, Any] = dict(latent=latent, batch_size=batch_size, steps=steps)
        super().__init__(student, teachers, data, kd=kd, temperature=temperature, **sizes)
        if weight:
            stage_pairs(student, self.teacher, "zskt with method.weight above 0")
        self.weight, self.generator_steps, self.student_steps = weight, generator_steps, student_steps
        self.optimizer = dict(optimizer or {**ADAM, "lr": 0.002})
        self.generator_optimizer = dict(generator_optimizer or {**ADAM, "lr": 0.001})
        self.generator = self.new_generator()

    def generator_loss(self, batch: Batch) -> Losses:
        images = self.generator(batch.images)
        return {"adversarial": -kl_div(self.ask(images, train=True).logits, self.teacher(images).logits)}

    def student_loss(self, batch: Batch) -> Losses:
        losses, student, teacher = self.learn(batch, self.generator(batch.images).detach())
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

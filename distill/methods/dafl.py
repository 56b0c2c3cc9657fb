"""Data-free learning of student networks (Chen et al., ICCV 2019, arXiv:1904.01186)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets, Phase, Update
from distill.parts.datafree import DataFree, balance_loss, certainty_loss

BLOCK_EPS = 0.8  # the authors' BatchNorm2d(128, 0.8): the second argument is eps


@full_precision
def activation_loss(embedding: Tensor) -> Tensor:
    """-mean |h_t| of the teacher's embedding [B,D]: real images excite it (eq. 4)."""
    return -embedding.abs().mean()


class DAFL(DataFree):
    """A generator whose images the teacher takes for real ones; the student imitates the teacher on them.

    Generator: certainty x one-hot loss + balance x information-entropy loss (base 10, as the authors have
    it) + activation x activation loss (eq. 6). Student: T^2 KL (the authors' T is 1), on the same images.
    The authors step both after one backward pass; here the student steps first, on images that carry no
    gradient, which gives the same two steps.
    """

    def __init__(
        self, *nets: *Nets, certainty: float, balance: float, activation: float, optimizer: Mapping[str, Any],
        generator_optimizer: Mapping[str, Any], **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        self.certainty, self.balance, self.activation = certainty, balance, activation
        self.optimizer, self.generator_optimizer = dict(optimizer), dict(generator_optimizer)
        self.generator = self.new_generator(eps=BLOCK_EPS)

    def student_loss(self, batch: Batch) -> Losses:
        return self.learn(batch, self.generator(batch.inputs).detach())[0]

    def generator_loss(self, batch: Batch) -> Losses:
        teacher = self.teacher(self.generator(batch.inputs))
        return {
            "certainty": self.certainty * certainty_loss(teacher.logits),
            "balance": self.balance * balance_loss(teacher.logits, 10.0),
            "activation": self.activation * activation_loss(teacher.embedding),
        }

    def phases(self) -> list[Phase]:
        student = Update("student", self.student_loss, [self.student], self.optimizer)
        generator = Update("generator", self.generator_loss, [self.generator], self.generator_optimizer)
        return [Phase("distill", [student, generator], source=self.noise)]

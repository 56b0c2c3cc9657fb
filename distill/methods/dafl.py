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
    The authors step both after one backward pass; here the generator steps first, and the student learns from the
    images that it made before, which gives the same two steps.
    """

    def __init__(
        self, *nets: *Nets, certainty: float, balance: float, activation: float, optimizer: Mapping[str, Any],
        generator_optimizer: Mapping[str, Any], **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        self.certainty, self.balance, self.activation = certainty, balance, activation
        self.optimizer, self.generator_optimizer = dict(optimizer), dict(generator_optimizer)
        self.generator = self.new_generator(eps=BLOCK_EPS)
        self._made: tuple[Tensor, Tensor] | None = None  # this step's images and the teacher's logits

    def generator_loss(self, batch: Batch) -> Losses:
        images = self.generator(batch.inputs)
        teacher = self.teacher(images)
        self._made = images.detach(), teacher.logits.detach()
        return {
            "certainty": self.certainty * certainty_loss(teacher.logits),
            "balance": self.balance * balance_loss(teacher.logits, 10.0),
            "activation": self.activation * activation_loss(teacher.embedding),
        }

    def student_loss(self, batch: Batch) -> Losses:
        assert self._made is not None
        return self.imitate(*self._made)[0]

    def phases(self) -> list[Phase]:
        generator = Update("generator", self.generator_loss, [self.generator], self.generator_optimizer)
        student = Update("student", self.student_loss, [self.student], self.optimizer)
        return [Phase("distill", [generator, student], source=self.noise)]

    def after_step(self) -> None:
        self._made = None

"""A discriminator of embeddings (Wang, Xu, Xu, Tao, AAAI 2018)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill.batch import Batch
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs
from distill.parts.discriminators import mlp, own_optimizer, real_or_fake


class AdvFeatures(Method):
    """ce x CE + kd x KL + weight x adversarial loss: an MLP tells the student's embeddings from the teacher's.

    A linear map takes the student's embedding to the teacher's width where they differ. Student and discriminator
    take turns within a step, the student first. No code by the authors is known: the weights are ours, as are
    D's width and rate.
    """

    def __init__(self, *nets: *Nets, weight: float, hidden: int, discriminator_lr: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.weight, self.discriminator_lr = weight, discriminator_lr
        width_s, width = student.embedding_dim, self.teacher.embedding_dim
        self.embed = nn.Linear(width_s, width) if width_s != width else nn.Identity()
        self.discriminator = mlp(width, hidden, 1)
        self._seen: tuple[Tensor, Tensor] | None = None

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        embedding = self.embed(student.embedding)
        self._seen = (embedding.detach(), teacher.embedding)
        return {"adversarial": self.weight * real_or_fake(self.discriminator(embedding), True)}

    def critic_loss(self, batch: Batch) -> Losses:
        """The discriminator's turn, on the embeddings of the student's turn."""
        assert self._seen is not None
        student, teacher = (self.discriminator(embedding) for embedding in self._seen)
        return {"discriminator": real_or_fake(teacher, True) + real_or_fake(student, False)}

    def phases(self) -> list[Phase]:
        critic = Update("discriminator", self.critic_loss, [self.discriminator], own_optimizer(self.discriminator_lr))
        return [Phase("distill", [Update("student", self.loss, [self.student, self.embed]), critic])]

    def after_step(self) -> None:
        self._seen = None

"""A discriminator of logits (Xu, Hsu, Huang, BMVC 2018, arXiv:1709.00513)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs
from distill.parts.discriminators import mlp, own_optimizer, real_or_fake


@full_precision
def l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of logits [B,K], over images and classes."""
    return (student - teacher).abs().mean()


@full_precision
def discriminator_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """What D minimises, from its outputs [B,K+1] on the student's and on the teacher's logits.

    The last output says "a teacher's"; the others classify, on both sides, so that D judges logits by class.
    """
    adversarial = real_or_fake(teacher[:, -1], True) + real_or_fake(student[:, -1], False)
    return adversarial + F.cross_entropy(teacher[:, :-1], labels) + F.cross_entropy(student[:, :-1], labels)


@full_precision
def student_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """What D asks of the student, from D's outputs [B,K+1] on its logits: pass as a teacher's, of the right class."""
    return real_or_fake(outputs[:, -1], True) + F.cross_entropy(outputs[:, :-1], labels)


class AdvLogits(Method):
    """ce x CE + l1 x |z_s - z_t| + weight x adversarial loss of an MLP on logits, which has its own optimiser.

    Student and discriminator take turns within a step, the student first. The student pleases D by the
    non-saturating loss. No code by the authors is known: the weights are ours, as are D's width and rate.
    """

    def __init__(
        self, *nets: *Nets, weight: float, l1: float, hidden: int, discriminator_lr: float, **common: Any
    ) -> None:
        _, _, data = nets
        super().__init__(*nets, **common)
        self.weight, self.l1, self.discriminator_lr = weight, l1, discriminator_lr
        self.discriminator = mlp(data.num_classes, hidden, data.num_classes + 1)
        self._seen: tuple[Tensor, Tensor] | None = None

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        self._seen = (student.logits.detach(), teacher.logits)
        judged = self.discriminator(student.logits)
        adversarial = self.by_label(lambda labels: student_loss(judged, labels), batch)
        return {"l1": self.l1 * l1_loss(student.logits, teacher.logits), "adversarial": self.weight * adversarial}

    def critic_loss(self, batch: Batch) -> Losses:
        """The discriminator's turn, on the logits of the student's turn."""
        assert self._seen is not None
        student, teacher = (self.discriminator(logits) for logits in self._seen)
        loss = self.by_label(lambda labels: discriminator_loss(student, teacher, labels), batch)
        return {"discriminator": loss}

    def phases(self) -> list[Phase]:
        critic = Update("discriminator", self.critic_loss, [self.discriminator], own_optimizer(self.discriminator_lr))
        return [Phase("distill", [Update("student", self.loss, [self.student]), critic])]

    def after_step(self) -> None:
        self._seen = None

"""DeiT: hard, soft and token distillation (Touvron et al., ICML 2021, arXiv:2012.12877, section 4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.two_heads import TwoHeads, logits_of_heads


@full_precision
def hard_label_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the class that the teacher takes for the likeliest (section 4, eq. 3); logits [B,K]."""
    return F.cross_entropy(student, teacher.argmax(1))


class DeiT(TwoHeads):
    """ce x CE of the class head + kd x T^2 KL (soft) + weight x CE with the teacher's decision (hard), of the other.

    A student with a distillation token (timm's deit_*_distilled_*) has two heads: labels train the class token's, the
    teacher the distillation token's, and their mean answers. A student with one head learns both with it. The teacher
    sees the student's images, mixed ones too, and its decision is not smoothed.

    token: refuse a student without a distillation token. Raises ValueError for that.
    """

    def __init__(self, *nets: *Nets, weight: float, token: bool, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if token and not student.two_heads:
            raise ValueError(
                f"{student.name} has no distillation token: take student=timm with student.model="
                "deit_tiny_distilled_patch16_224, or method=deit-hard, which needs none."
            )
        self.weight = weight

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        _, for_teacher = logits_of_heads(student)
        return {"hard": self.weight * hard_label_loss(for_teacher, teacher.logits)} if self.weight else {}

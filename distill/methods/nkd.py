"""Normalised knowledge distillation (Yang et al., ICCV 2023, arXiv:2303.13005)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.methods.dkd import other_classes
from distill.models import Outputs
from distill.parts.teacher_mode import TeacherMode


@full_precision
def weighted_target_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """-mean p_t[y] log p_s[y], without temperature on either side; logits [B,K], labels [B]."""
    p_teacher = F.softmax(teacher, dim=1).gather(1, labels[:, None])
    log_student = F.log_softmax(student, dim=1).gather(1, labels[:, None])
    return -(p_teacher * log_student).mean()


@full_precision
def spread_non_target_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """-T^2 mean sum_{c != y} q_t log q_s, q the tempered softmax among the other classes.

    Logits [B,K], labels [B]. A cross-entropy, not a KL: it does not fall to 0. With two classes it is 0.
    """
    q_teacher = F.softmax(other_classes(teacher, labels) / temperature, dim=1)
    log_student = F.log_softmax(other_classes(student, labels) / temperature, dim=1)
    return -(temperature**2) * (q_teacher * log_student).sum(dim=1).mean()


class NKD(TeacherMode):
    """CE + weight x (target term + gamma x normalised non-target term).

    The authors' trainer (mmcv's) puts the frozen teacher back in train mode: teacher_mode="train".
    """

    def __init__(self, *nets: *Nets, weight: float, gamma: float, teacher_mode: str, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.set_teacher_mode(teacher_mode)
        self.weight, self.gamma = weight, gamma

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        pair = (student.logits, teacher.logits)
        losses = {"target": self.weight * self.by_label(lambda labels: weighted_target_loss(*pair, labels), batch)}
        if self.gamma:
            others = self.by_label(lambda labels: spread_non_target_loss(*pair, labels, self.temperature), batch)
            losses["non_target"] = self.weight * self.gamma * others
        return losses

"""Weighted soft labels (Zhou et al., ICLR 2021, arXiv:2102.00650)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.teacher_mode import TeacherMode

_EPS = 1e-7


@torch.no_grad()
def sample_weights(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return w [B] = 1 - exp(-CE_s / CE_t) of logits [B,K] at T = 1: small where the student is ahead.

    labels [B], or mixed targets [B,K].
    """
    ce_student = F.cross_entropy(student, labels, reduction="none")
    ce_teacher = F.cross_entropy(teacher, labels, reduction="none")
    return 1 - torch.exp(-ce_student / (ce_teacher + _EPS))


@full_precision
def wsld_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 mean_i w_i CE(p_t^T, p_s^T) of logits [B,K] and labels [B], or mixed targets [B,K];
    the weights carry no gradient.

    A cross-entropy, not a KL: it does not fall to 0.
    """
    soft = F.softmax(teacher / temperature, dim=1)
    cost = -(soft * F.log_softmax(student / temperature, dim=1)).sum(dim=1)
    return temperature**2 * (sample_weights(student, teacher, labels) * cost).mean()


class WSLD(TeacherMode):
    """CE + weight x soft-label cross-entropy, each sample weighed by how far the student is behind the
    teacher.

    The authors' loop puts the frozen teacher in train mode, as cls_KD's (mmcv's) does: teacher_mode="train".
    """

    def __init__(self, *nets: *Nets, weight: float, teacher_mode: str, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.set_teacher_mode(teacher_mode)
        self.weight = weight

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        loss = wsld_loss(student.logits, teacher.logits, batch.truth, self.temperature)
        return {"wsld": self.weight * loss}

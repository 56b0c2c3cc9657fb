"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv:2203.08679)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.batch import Batch
from distill.losses import full_precision, kd_loss, kl_div
from distill.method import Losses, Method, Nets
from distill.methods.kd import z_score
from distill.models import Outputs


def other_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits [B,K-1] of all classes but each sample's label [B], in their order."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= labels[:, None]))


@full_precision
def target_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """TCKD: T^2 KL(b_t || b_s) of label against all other classes, b = (p_y, 1 - p_y).

    Logits [B,K], labels [B]. log(1 - p_y) is a logsumexp over the other classes, so that nothing underflows
    however sure a net is.
    """

    def binary(logits: Tensor) -> Tensor:
        label = logits.gather(1, labels[:, None]).squeeze(1)
        return torch.stack([label, other_classes(logits, labels).logsumexp(dim=1)], dim=1)

    return temperature**2 * kl_div(binary(student / temperature), binary(teacher / temperature))


@full_precision
def non_target_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NCKD: T^2 KL(q_t || q_s) of the softmax among the classes that are not the label; logits [B,K].

    The label's column is left out, where the authors subtract 1000 from its logit, which fp16 cannot hold.
    """
    return kd_loss(other_classes(student, labels), other_classes(teacher, labels), temperature)


class DKD(Method):
    """CE + min(epoch / warmup_epochs, 1) x (alpha TCKD + beta NCKD), paper eq. 7; epochs count from 1.

    `standardize` z-scores the logits of both nets first (arXiv:2403.01427).
    """

    def __init__(
        self, *nets: *Nets, alpha: float, beta: float, warmup_epochs: int, standardize: bool, **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(*nets, **common)
        if student.num_classes < 3:
            raise ValueError(
                f"dkd tells apart the classes that are not the label, of which {data.name} has "
                f"{student.num_classes - 1}: use method=kd, which dkd would equal there."
            )
        self.alpha, self.beta, self.warmup_epochs = alpha, beta, warmup_epochs
        self.standardize = standardize

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kd_loss(*self.scaled(student, teacher), self.temperature)

    def scaled(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return both nets' logits [B,K], z-scored where that is asked for."""
        return (z_score(student), z_score(teacher)) if self.standardize else (student, teacher)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        pair = self.scaled(student.logits, teacher.logits)
        warm, losses = self.ramp(self.warmup_epochs), {}
        if self.alpha:
            target = self.by_label(lambda labels: target_loss(*pair, labels, self.temperature), batch)
            losses["tckd"] = warm * self.alpha * target
        if self.beta:
            others = self.by_label(lambda labels: non_target_loss(*pair, labels, self.temperature), batch)
            losses["nckd"] = warm * self.beta * others
        return losses

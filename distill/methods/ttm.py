"""Transformed teacher matching (Zheng, Yang, ICLR 2024, arXiv:2402.11148)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs


@full_precision
def matching_loss(student: Tensor, teacher: Tensor, exponent: float, weighted: bool) -> Tensor:
    """mean_i w_i KL(p_t^g / U || p_s) of logits [B,K], U = sum_k p_t[k]^g; w = U if weighted (WTTM), else 1.

    g, `exponent`, is 1 / T of a teacher at temperature T; the student's predictions stay at temperature 1, which adds
    the Renyi entropy of its predictions to the loss of method=kd. No factor T^2.
    """
    powered = exponent * F.log_softmax(teacher, dim=1)
    log_sum = powered.logsumexp(dim=1)
    target = powered - log_sum[:, None]
    divergence = F.kl_div(F.log_softmax(student, dim=1), target, reduction="none", log_target=True).sum(dim=1)
    return (log_sum.exp() * divergence).mean() if weighted else divergence.mean()


class TTM(Method):
    """CE + weight x KL(p_t^exponent || p_s); method=wttm weighs each sample by how smooth the teacher is about it."""

    def __init__(self, *nets: *Nets, weight: float, exponent: float, weighted: bool, **common: Any) -> None:
        super().__init__(*nets, **common)
        if not 0 < exponent <= 1:
            raise ValueError(f"method.exponent is {exponent}: it is 1 / T of the teacher, in (0, 1]; 0.1 is usual.")
        self.weight, self.exponent, self.weighted = weight, exponent, weighted

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        loss = matching_loss(student.logits, teacher.logits, self.exponent, self.weighted)
        return {"ttm": self.weight * loss}

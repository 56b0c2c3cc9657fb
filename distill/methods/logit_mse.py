"""Regression on the teacher's logits (Ba, Caruana, NeurIPS 2014, arXiv:1312.6184)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs


@full_precision
def logit_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples AND classes of (z_s - z_t)^2 for logits [B,K] (section 2.2, eq. 1, without its 1/2).

    Summed over the classes it would weigh K times as much. KD tends to it for large T and zero-mean logits.
    """
    return F.mse_loss(student, teacher)


class LogitMSE(Method):
    """CE + weight x mean squared error of the logits; the paper itself trains on the second term alone
    (ce=0).
    """

    def __init__(self, *nets: *Nets, weight: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.weight = weight

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        return {"logit_mse": self.weight * logit_mse_loss(student.logits, teacher.logits)}

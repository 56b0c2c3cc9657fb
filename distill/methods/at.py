"""Attention transfer (Zagoruyko, Komodakis, ICLR 2017, arXiv:1612.03928)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.products import MeanSquare, rows
from distill.parts.stages import stage_pairs


def attention_map(feature: Tensor, p: float = 2) -> Tensor:
    """Return the unit vector [B,H*W] along vec(mean_c |F|^p) of a map [B,C,H,W] (section 3.1), in fp32."""
    x = rows(feature)
    return F.normalize(MeanSquare.apply(x) if p == 2 else mean_power(x, p), dim=1)


@full_precision
def mean_power(x: Tensor, p: float) -> Tensor:
    """Mean over the last dimension of |x|^p."""
    return x.abs().pow(p).mean(-1)


def attention_loss(student: Tensor, teacher: Tensor, p: float = 2) -> Tensor:
    """Mean over samples and positions of the squared difference of two maps' attention (eq. 2, norm squared).

    student [B,Cs,H,W] and teacher [B,Ct,H',W'], of any channels; the larger map is average-pooled to the
    smaller.
    """
    if student.shape[2:] != teacher.shape[2:]:
        student, teacher = full_precision(pool_to)(student, teacher)
    return F.mse_loss(attention_map(student, p), attention_map(teacher, p))


class AT(Method):
    """ce x CE + weight x sum over stages of the attention loss; the stem's map takes no part.

    As in the authors' code, the norm of eq. 2 is squared and averaged over positions.
    """

    def __init__(self, *nets: *Nets, weight: float, p: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if p <= 0:
            raise ValueError(f"method.p is {p}: the power of an attention map is positive; the usual value is 2.")
        stage_pairs(student, self.teacher, "at")
        self.weight, self.p = weight, p

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        stages = zip(student.features, teacher.features, strict=True)
        return {"at": self.weight * torch.stack([attention_loss(s, t, self.p) for s, t in stages]).sum()}

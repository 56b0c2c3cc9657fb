"""Similarity-preserving distillation (Tung, Mori, ICCV 2019, arXiv:1907.09682)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.products import Gram, rows


def similarities(feature: Tensor) -> Tensor:
    """Return G [B,B] of maps [B,C,H,W]: inner products of the flattened maps, each ROW of unit length."""
    return F.normalize(Gram.apply(rows(feature).flatten(1)), dim=1)


@full_precision
def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||G_t - G_s||_F^2 / B^2 of maps [B,C_s,H_s,W_s] and [B,C_t,H_t,W_t], whose shapes may differ."""
    return F.mse_loss(similarities(student), similarities(teacher))


class SP(Method):
    """CE + weight x SP on the last stage's maps.

    It relates the samples of one batch: over several devices, of each device's own part.
    """

    def __init__(self, *nets: *Nets, weight: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.weight = weight

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        return {"sp": self.weight * sp_loss(student.features[-1], teacher.features[-1])}

"""Neuron selectivity transfer (Huang, Wang, 2017, arXiv:1707.01219)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.data import DataInfo
from distill.losses import full_precision, pool_to
from distill.method import Batch, Losses, Method
from distill.models import FeatureNet, Outputs
from distill.parts.taps import stage_pairs


@full_precision
def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD between channels, mean over the batch, kernel k(a, b) = (a.b)^2 (polynomial, d=2, c=0).

    student [B,Cs,H,W] and teacher [B,Ct,H',W']; the larger map is average-pooled to the smaller, and each
    channel is made a unit vector of H*W. A kernel's mean over pairs is a squared norm of a Gram matrix: over
    channels [C,C], or, since <S S', T T'> = |S' T|^2, over positions [HW,HW]. Both are exact; the cheaper one
    is taken.
    """
    student, teacher = pool_to(student, teacher)
    s, t = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)
    if prefers_positions(s.shape[1], t.shape[1], s.shape[2]):
        return (s.mT @ s / s.shape[1] - t.mT @ t / t.shape[1]).square().sum((1, 2)).mean()
    return mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)


def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean over samples and pairs of (a_i . b_j)^2 of unit channels [B,Ca,P] and [B,Cb,P]."""
    return (a @ b.mT).square().mean()


def prefers_positions(cs: int, ct: int, positions: int) -> bool:
    """Whether Gram matrices over positions take fewer multiplications than those over channels."""
    return positions * (cs + ct) < cs * cs + ct * ct + cs * ct


class NST(Method):
    """ce x CE + weight x sum over stages of the squared MMD (the paper has weight/2, on the last stage)."""

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
        weight: float = 50.0,
    ) -> None:
        super().__init__(student, teachers, data, ce=ce, kd=kd, temperature=temperature)
        stage_pairs(student, self.teacher, "nst")
        self.weight = weight

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        stages = zip(student.features, teacher.features, strict=True)
        return {"nst": self.weight * torch.stack([nst_loss(s, t) for s, t in stages]).sum()}

"""Neuron selectivity transfer (Huang, Wang, 2017, arXiv:1707.01219)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.products import Gram, rows
from distill.parts.stages import stage_pairs

_EPS = 1e-24  # of squared lengths


@full_precision
def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD between channels, mean over the batch, kernel k(a, b) = (a.b)^2 (polynomial, d=2, c=0).

    student [B,Cs,H,W] and teacher [B,Ct,H',W']; the larger map is average-pooled to the smaller, and each
    channel is made a unit vector of H*W. A kernel's mean over pairs is a squared norm of a Gram matrix: over
    channels [C,C], or, since <S S', T T'> = |S' T|^2, over positions [HW,HW]. Both are exact; the cheaper one
    is taken. Over channels, products are divided by the lengths that stand on the Gram matrices' diagonals.
    """
    student, teacher = pool_to(student, teacher)
    s, t = rows(student), rows(teacher)
    if prefers_positions(s.shape[2], t.shape[2], s.shape[1]):
        s, t = (x * inverse_root(x.square().sum(1, keepdim=True)) for x in (s, t))
        return (Gram.apply(s) / s.shape[2] - Gram.apply(t) / t.shape[2]).square().sum((1, 2)).mean()
    ss, tt, ts = Gram.apply(s.mT), Gram.apply(t.mT), t.mT @ s
    a, b = (inverse_root(gram.diagonal(dim1=1, dim2=2)) for gram in (ss, tt))
    return mean_kernel(tt, b, b) + mean_kernel(ss, a, a) - 2 * mean_kernel(ts, b, a)


def inverse_root(squares: Tensor) -> Tensor:
    """Return 1 / length of squared lengths; a channel without activation keeps length 0 in every product."""
    return squares.clamp_min(_EPS).rsqrt()


def mean_kernel(products: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean of squared products [B,Ca,Cb] of channels, scaled by the inverses of their lengths [B,Ca] and [B,Cb]."""
    return (products * a[:, :, None] * b[:, None]).square().mean()


def prefers_positions(cs: int, ct: int, positions: int) -> bool:
    """Whether Gram matrices over positions take fewer multiplications than those over channels."""
    return positions * (cs + ct) < cs * cs + ct * ct + cs * ct


class NST(Method):
    """ce x CE + weight x sum over stages of the squared MMD (the paper has weight/2, on the last stage)."""

    def __init__(self, *nets: *Nets, weight: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        stage_pairs(student, self.teacher, "nst")
        self.weight = weight

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        stages = zip(student.features, teacher.features, strict=True)
        return {"nst": self.weight * torch.stack([nst_loss(s, t) for s, t in stages]).sum()}

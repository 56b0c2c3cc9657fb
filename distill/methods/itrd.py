"""Information theoretic representation distillation (Miles et al., BMVC 2022, arXiv:2112.00459)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs

_EPS = 1e-6  # of a feature that is the same in the whole batch


def standardised(x: Tensor) -> Tensor:
    """Each feature of [B,D] less its mean, over its standard deviation (over B - 1)."""
    return (x - x.mean(dim=0)) / (x.std(dim=0) + _EPS)


@full_precision
def cross_correlation_loss(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """log2 sum_d |c_d - 1|^(2 alpha), c_d the correlation of feature d of embeddings [B,D] over the batch."""
    correlation = (standardised(student) * standardised(teacher)).mean(dim=0)
    gaps = (correlation - 1).square().clamp_min(torch.finfo(student.dtype).tiny).pow(alpha)
    return gaps.sum().clamp_min(torch.finfo(student.dtype).tiny).log2()


@full_precision
def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||G_s||^2 - ||G_st||^2 of Gram matrices [B,B] of unit embeddings [B,D], each over its trace; G_st = G_s * G_t,
    entry by entry: the negative mutual information at Renyi order 2.
    """
    student, teacher = F.normalize(student), F.normalize(teacher)
    of_student = student @ student.T
    joint = of_student * (teacher @ teacher.T)
    return (of_student / of_student.trace()).square().sum() - (joint / joint.trace()).square().sum()


class ITRD(Method):
    """CE + correlation x L_corr + mutual x L_mi, of the student's embedding mapped linearly to the teacher's width.

    As in the authors' code the map serves both losses where the widths differ, and the correlation alone where they
    are equal. Both relate the samples of one batch: over several devices, of each device's own part.
    """

    def __init__(self, *nets: *Nets, correlation: float, mutual: float, alpha: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.correlation, self.mutual, self.alpha = correlation, mutual, alpha
        self.equal_widths = student.embedding_dim == self.teacher.embedding_dim
        self.embed = nn.Linear(student.embedding_dim, self.teacher.embedding_dim)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        mapped = self.embed(student.embedding)
        own = student.embedding if self.equal_widths else mapped
        return {
            "correlation": self.correlation * cross_correlation_loss(mapped, teacher.embedding, self.alpha),
            "mutual": self.mutual * mutual_loss(own, teacher.embedding),
        }

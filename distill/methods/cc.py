"""Correlation congruence (Peng et al., ICCV 2019, arXiv:1904.01802), in the two forms that carry the name."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs

_FORMS = ("neighbours", "kernel")


@full_precision
def neighbour_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over i of sum_d |e_s - e_t|_{i,d} |e_s - e_t|_{i+1,d}, embeddings [B,D]: the loss of the CRD
    tables.

    From the authors by way of RepDistiller, and in no equation of the paper. Samples that follow each other
    in the shuffled batch are compared, so it depends on their order. 0 for a batch of one.
    """
    gap = (student - teacher).abs()
    return (gap[:-1] * gap[1:]).sum() / max(len(gap) - 1, 1)


def kernel(embedding: Tensor, gamma: float, order: int) -> Tensor:
    """Return K [B,B] of embeddings [B,D]: the Gaussian kernel of unit vectors, by Taylor.

    exp(-gamma ||x - y||^2) = exp(-2 gamma) sum_p (2 gamma)^p / p! <x,y>^p, the sum cut after p = order.
    """
    unit = F.normalize(embedding, dim=1)
    cosine = unit @ unit.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(dim=0)


@full_precision
def kernel_loss(student: Tensor, teacher: Tensor, gamma: float, order: int) -> Tensor:
    """||K_s - K_t||_F^2 / B^2 of embeddings [B,D_s] and [B,D_t]: the loss of the paper."""
    return F.mse_loss(kernel(student, gamma, order), kernel(teacher, gamma, order))


class CC(Method):
    """CE + weight x one of two DIFFERENT losses called CC, told apart by `form`.

    "neighbours" (default: what the CRD tables call CC) embeds both nets in `dim` dimensions by linear layers
    that are both trained, so that it has a trivial solution, both embeddings constant. "kernel"
    (method=cc-kernel) is the paper's, without adapters. The paper's class-uniform batches are not part of
    either. Both relate the samples of one batch: over several devices, of each device's own part.
    """

    def __init__(
        self, *nets: *Nets, weight: float, form: str, dim: int, gamma: float, order: int, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if form not in _FORMS:
            raise ValueError(f"method.form is {form!r}: give neighbours (CRD tables) or kernel (the paper).")
        self.weight, self.form, self.gamma, self.order = weight, form, gamma, order
        if form == "neighbours":
            self.embed_student = nn.Linear(student.embedding_dim, dim)
            self.embed_teacher = nn.Linear(self.teacher.embedding_dim, dim)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        if self.form == "kernel":
            loss = kernel_loss(student.embedding, teacher.embedding, self.gamma, self.order)
        else:
            e_s, e_t = self.embed_student(student.embedding), self.embed_teacher(teacher.embedding)
            loss = neighbour_loss(e_s, e_t)
        return {"cc": self.weight * loss}

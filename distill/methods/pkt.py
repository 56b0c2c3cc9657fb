"""Probabilistic knowledge transfer (Passalis, Tefas, ECCV 2018, arXiv:1803.10837)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs

_EPS = 1e-7


def affinities(embedding: Tensor) -> Tensor:
    """Return P [B,B] of embeddings [B,D]: (cosine + 1) / 2 with each row summing to 1, diagonal kept.

    An embedding of zeros has cosine 0 with all, and a gradient of 0 through its norm.
    """
    unit = embedding / (vector_norm(embedding, dim=1, keepdim=True) + _EPS)
    cosine = (unit @ unit.T + 1) / 2
    return cosine / cosine.sum(dim=1, keepdim=True)


@full_precision
def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the B^2 entries of P_t log(P_t / P_s), embeddings [B,D_s] and [B,D_t].

    The mean, not the sum, is what the published weight of 30,000 belongs to.
    """
    p_s, p_t = affinities(student), affinities(teacher)
    return (p_t * torch.log((p_t + _EPS) / (p_s + _EPS))).mean()


class PKT(Method):
    """CE + weight x PKT on the embeddings.

    It relates the samples of one batch: over several devices, of each device's own part.
    """

    def __init__(self, *nets: *Nets, weight: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.weight = weight

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        return {"pkt": self.weight * pkt_loss(student.embedding, teacher.embedding)}

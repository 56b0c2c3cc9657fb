"""Relational knowledge distillation (Park, Kim, Lu, Cho, CVPR 2019, arXiv:1904.05068)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs

_EPS = 1e-12  # of squared distances: closer than this, two embeddings are one


def relations(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances [B,B] and directions [B,B,D] of embeddings [B,D]; direction [j,i] points from j to i.

    Equal embeddings have distance and direction 0, and pass no gradient on, where the root's would be
    infinite.
    """
    difference = embedding[None, :] - embedding[:, None]
    squared = difference.square().sum(dim=2)
    apart = squared > _EPS
    length = torch.where(apart, squared, 1.0).sqrt()
    direction = torch.where(apart[:, :, None], difference / length[:, :, None], 0.0)
    return torch.where(apart, length, 0.0), direction


def relative(distances: Tensor) -> Tensor:
    """Return distances [B,B] over the mean of those above 0."""
    count = (distances > 0).sum().clamp(min=1)
    return distances / (distances.sum() / count).clamp(min=_EPS)


def cosines(direction: Tensor) -> Tensor:
    """Return [j,i,k] = cos of the angle at j between i and k, from directions [B,B,D], by one product."""
    return direction @ direction.transpose(1, 2)


@full_precision
def rkd_losses(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return (distance, angle) losses of embeddings [B,D_s] and [B,D_t], whose widths may differ.

    Smooth L1 of relative distances, mean over B^2 pairs (RKD-D), and of the cosines of all B^3
    triplets (RKD-A): exact, in B^3 numbers and not B^3 D.
    """
    (d_s, u_s), (d_t, u_t) = relations(student), relations(teacher)
    distance = F.smooth_l1_loss(relative(d_s), relative(d_t))
    return distance, F.smooth_l1_loss(cosines(u_s), cosines(u_t))


class RKD(Method):
    """CE + weight x (distance x RKD-D + angle x RKD-A) on the embeddings, each with its own width.

    Memory grows with B^3 (512 samples: 0.5 GB a tensor). It relates the samples of one batch: over several
    devices, of each device's own part. The teacher's relations carry no gradient.
    """

    def __init__(self, *nets: *Nets, weight: float, distance: float, angle: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        self.weight, self.distance, self.angle = weight, distance, angle

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        distance, angle = rkd_losses(student.embedding, teacher.embedding)
        terms = {"distance": (self.distance, distance), "angle": (self.angle, angle)}
        return {name: self.weight * share * term for name, (share, term) in terms.items() if share}

"""Projector ensemble feature distillation (Chen, Wang, Liu, Xu, de Hoog, Huang, NeurIPS 2022, arXiv:2210.15274)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs


@full_precision
def direction_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(f_s, f_t) of embeddings [B,D], mean over the batch."""
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


class PEFD(Method):
    """CE + weight x (1 - cos(mean_q relu(P_q f_s), f_t)): several linear projectors, each from its own start.

    They differ by their initialisation alone, and their mean generalises better than one that is as large.
    """

    def __init__(self, *nets: *Nets, weight: float, projectors: int, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if projectors < 1:
            raise ValueError(f"method.projectors is {projectors}: at least one is needed; the paper has three.")
        self.weight = weight
        widths = student.embedding_dim, self.teacher.embedding_dim
        self.projectors = nn.ModuleList(nn.Linear(*widths) for _ in range(projectors))

    def project(self, embedding: Tensor) -> Tensor:
        """[B,D] of the student to [B,D] of the teacher: the mean of the rectified projections."""
        return torch.stack([F.relu(projector(embedding)) for projector in self.projectors]).mean(dim=0)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        return {"pefd": self.weight * direction_loss(self.project(student.embedding), teacher.embedding)}

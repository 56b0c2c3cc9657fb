"""Attentive feature distillation (Wang, Gao, Zhao, Xu, ICLR 2020, openreview ryxyCeHtPB)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.products import rows

_EPS = 1e-6


@full_precision
def afd_loss(student: Tensor, teacher: Tensor, scores: Tensor) -> Tensor:
    """(1/B) sum_i sum_c rho_ic mean over positions of (s_ic/|s_ic| - t_ic/|t_ic|)^2 (section 3.2).

    Maps [B,C,H,W], each channel scaled to unit length; scores [B,C] in (0, 1), rho = scores / their sum over
    C.
    """
    rho = scores / scores.sum(1, keepdim=True)
    s, t = (x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _EPS) for x in (rows(student), rows(teacher)))
    return (rho * (s - t).square().mean(1)).sum(1).mean()


class AFDAttention(Method):
    """Channels of every stage are matched as much as an attention on the teacher's pooled map says; mean over
    stages.

    The attention is two 1x1 layers with a sigmoid, normalised to sum 1 over channels, as in KD-Zoo (with its
    initial weights, He's by fan out, and its weight, of a CIFAR-10 script), since the original transfer-learning
    code is unstable. Not to be confused with two other methods called AFD: adversarial feature-map distillation and
    attention-based feature distillation with candidate layers.
    """

    def __init__(self, *nets: *Nets, weight: float, squeeze: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if student.channels != self.teacher.channels:
            raise ValueError(
                f"afd-attention matches channel by channel, but {student.name} has stages {student.shapes} "
                f"and {self.teacher.name} {self.teacher.shapes}: take nets alike, or method=semckd."
            )
        self.weight = weight
        self.attention = nn.ModuleList(self._attention(c, max(int(c * squeeze), 1)) for c in self.teacher.channels)

    @staticmethod
    def _attention(channels: int, middle: int) -> nn.Sequential:
        down, up = nn.Linear(channels, middle), nn.Linear(middle, channels)
        for layer in (down, up):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        return nn.Sequential(down, nn.ReLU(), up, nn.Sigmoid())

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        losses = []
        for attend, s, t in zip(self.attention, student.features, teacher.features, strict=True):
            losses.append(afd_loss(*pool_to(s, t), attend(t.mean((2, 3)))))
        return {"afd": self.weight * torch.stack(losses).mean()}

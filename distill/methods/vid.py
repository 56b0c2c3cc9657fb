"""Variational information distillation (Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019, arXiv:1904.05835)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.products import rows
from distill.parts.stages import stage_pairs

_EPS = 1e-5


@full_precision
def vid_loss(mean: Tensor, teacher: Tensor, theta: Tensor) -> Tensor:
    """Negative log-likelihood of a teacher map under a Gaussian with one variance a channel.

    mean and teacher [B,C,H,W], theta [C]; v = softplus(theta) + eps. Mean over samples, channels and
    positions of ((t - mean)^2 / v + log v) / 2, the constant log(2 pi) / 2 left out.
    """
    variance = F.softplus(theta) + _EPS
    return ((rows(mean) - rows(teacher)).square() / variance + variance.log()).mean() / 2


class Regressor(nn.Module):
    """q(t | s) of one stage: three 1x1 convolutions give the mean, a parameter a channel the variance."""

    def __init__(self, student: int, teacher: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
        )
        self.theta = nn.Parameter(torch.full((teacher,), math.log(math.expm1(variance - _EPS))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of maps [B,Cs,H,W] and [B,Ct,H',W']; the larger one is average-pooled first."""
        student, teacher = pool_to(student, teacher)
        return vid_loss(self.mean(student), teacher, self.theta)


class VID(Method):
    """ce x CE + weight x sum over stages of the negative log-likelihood; means and variances are trained.

    As in the CRD tables there is no BatchNorm between the convolutions, and the loss is a mean over elements.
    """

    def __init__(self, *nets: *Nets, weight: float, variance: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if variance <= _EPS:
            raise ValueError(f"method.variance is {variance}: a variance starts above {_EPS}; the usual value is 5.")
        self.weight = weight
        pairs = stage_pairs(student, self.teacher, "vid")
        self.regressors = nn.ModuleList(Regressor(s[0], t[0], variance) for s, t in pairs)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        stages = zip(self.regressors, student.features, teacher.features, strict=True)
        return {"vid": self.weight * torch.stack([regressor(s, t) for regressor, s, t in stages]).sum()}

"""Confidence-aware multi-teacher distillation (Zhang, Chen, Wang, ICASSP 2022, arXiv:2201.00007)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import FeatureNet, Outputs
from distill.parts.heads import Shape
from distill.parts.several import SeveralTeachers, kl_rows


@full_precision
def confidence(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Weights [M,B] of M teachers' logits [B,K]: w = (1 - softmax_m CE(z_m, y)) / (M - 1) (eq. 3).

    labels [B], or mixed targets [B,K]. A teacher that is nearer to the label of an image counts more there; the
    weights of an image sum to 1.
    """
    errors = torch.stack([F.cross_entropy(each, labels, reduction="none") for each in logits])
    return (1 - errors.softmax(0)) / (len(errors) - 1)


@full_precision
def weighted(weights: Tensor, losses: Tensor) -> Tensor:
    """(1/(B M)) sum_{m,i} w_mi loss_mi of [M,B]: the authors divide by M once more, though the weights sum to 1."""
    return (weights * losses).sum() / losses.numel()


class Resized(nn.Module):
    """Maps at a given size: pooled by the average where they are at least as high, else bilinear."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width

    def forward(self, feature: Tensor) -> Tensor:
        if feature.shape[2] >= self.size[0]:
            return F.adaptive_avg_pool2d(feature, self.size)
        return F.interpolate(feature, self.size, mode="bilinear")


def pointwise_regressor(student: Shape, teacher: Shape) -> nn.Sequential:
    """A student's map (C,H,W) at the teacher's size, then a 1x1 convolution, BatchNorm and ReLU."""
    resized = Resized(*teacher[1:])
    return nn.Sequential(resized, nn.Conv2d(student[0], teacher[0], 1), nn.BatchNorm2d(teacher[0]), nn.ReLU())


class CAMKD(SeveralTeachers):
    """ce x CE + kd x weighted KL + weight x weighted MSE of the last maps, each teacher with its own regressor.

    The maps' weights (eq. 6) ask how well a teacher's classifier does on the student's regressed map; gradients
    reach the regressor through them too. Maps count from epoch 2 on, and batches smaller than the batch size are
    left out (`drop_last`), as in the authors' code. There a map that was resized for one teacher is resized again
    for the next; here each teacher's comes from the student's own.
    """

    def __init__(self, *nets: *Nets, weight: float, **common: Any) -> None:
        student, teachers, _ = nets
        super().__init__(*nets, **common)
        self.weight = weight
        for teacher in teachers if weight else ():
            _classifies_maps(teacher)
        heads = [pointwise_regressor(student.shapes[-1], t.shapes[-1]) for t in teachers] if weight else []
        self.regressors = nn.ModuleList(heads)

    def learn(self, student: Outputs, teachers: Sequence[Outputs], batch: Batch) -> Losses:
        logits = [teacher.logits for teacher in teachers]
        kl = kl_rows(student.logits, logits, self.temperature)
        losses = {"kd": self.kd * weighted(confidence(logits, batch.truth), kl)}
        if self.weight:
            losses["maps"] = self.weight * (self.epoch > 1) * self.maps(student, teachers, batch.truth)
        return losses

    def maps(self, student: Outputs, teachers: Sequence[Outputs], labels: Tensor) -> Tensor:
        """Return the weighted squared differences of the last maps."""
        regressed = [head(student.features[-1]).float() for head in self.regressors]
        logits = [net.classify(each) for net, each in zip(self.teachers, regressed, strict=True)]
        pairs = zip(regressed, teachers, strict=True)
        errors = [(feature_s - other.features[-1].float()).square().flatten(1).mean(1) for feature_s, other in pairs]
        return weighted(confidence(logits, labels), torch.stack(errors))


def _classifies_maps(teacher: FeatureNet) -> None:
    try:
        with torch.no_grad():
            teacher.classify(torch.zeros(1, *teacher.shapes[-1], device=next(teacher.parameters()).device))
    except ValueError as error:
        raise ValueError(
            f"ca-mkd reads the student's map through the classifier of {teacher.name}, which takes no map of its "
            f"last shape {teacher.shapes[-1]}: set method.weight=0, or take method=avg-multi-teacher."
        ) from error

"""WKD-F: Wasserstein distance of Gaussian features (Lv, Yang, Li, NeurIPS 2024, arXiv:2412.08139, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.choice import check_choice
from distill.parts.decaying import Decaying
from distill.parts.heads import BatchNorm, Shape, conv_regressor

_EPS = 1e-5  # of a variance
_PROJECTORS = ("conv", "bottleneck")


def moments(maps: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [B,C,g*g] of maps [B,C,H,W] over the positions of each cell of a grid of g x g.

    Cells are those of adaptive pooling, and may share positions; the variance is over one less than there are.
    """
    (down, across), found = maps.shape[2:], []
    for row in range(grid):
        for column in range(grid):
            rows = slice(row * down // grid, -(-(row + 1) * down // grid))
            columns = slice(column * across // grid, -(-(column + 1) * across // grid))
            cell = maps[:, :, rows, columns].flatten(2)
            found.append(torch.var_mean(cell, dim=2, correction=min(1, cell.shape[2] - 1)))
    variances, means = zip(*found, strict=True)
    return torch.stack(means, dim=2), (torch.stack(variances, dim=2) + _EPS).sqrt()


@full_precision
def gaussian_wasserstein(student: Tensor, teacher: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """(means, deviations): squared differences of the moments of maps [B,C,H,W], summed over channels, mean over cells
    and batch. Their sum is the squared 2-Wasserstein distance of Gaussians with diagonal covariances.
    """
    pairs = zip(moments(student, grid), moments(teacher, grid), strict=True)
    means, deviations = ((of_student - of_teacher).square().sum(dim=1).mean() for of_student, of_teacher in pairs)
    return means, deviations


def bottleneck(student: Shape, teacher: Shape, hidden: int) -> nn.Sequential:
    """The authors' projector for ImageNet: 1x1, 3x3 and 1x1 convolutions, then BatchNorm and ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(student[0], hidden, 1), nn.Conv2d(hidden, hidden, 3, padding=1), nn.Conv2d(hidden, teacher[0], 1),
        BatchNorm(teacher[0]), nn.ReLU(),
    )  # fmt: skip


class WKDF(Decaying):
    """CE + feature_weight x (mean_weight x |m_s - m_t|^2 + |s_s - s_t|^2) of the last maps, the student's projected.

    projector="conv": FitNets' convolution, which brings the student's map to the teacher's size; "bottleneck", of
    `hidden` channels inside, leaves the sizes as they are, since the moments of a cell need none.
    """

    def __init__(
        self, *nets: *Nets, feature_weight: float, mean_weight: float, grid: int, projector: str, hidden: int,
        **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        check_choice("projector", projector, _PROJECTORS)
        self.feature_weight, self.mean_weight, self.grid = feature_weight, mean_weight, grid
        shape_s, shape_t = self.student.shapes[-1], self.teacher.shapes[-1]
        if not 1 <= grid <= min(*shape_s[1:], *shape_t[1:]):
            raise ValueError(
                f"method.grid is {grid}, and the last maps are {shape_s} and {shape_t}: take a whole number from 1 "
                "to their size."
            )
        if hidden < 1:
            raise ValueError(f"method.hidden is {hidden}: the projector needs one at least, the authors have 256.")
        plain = projector == "conv"
        self.projector = conv_regressor(shape_s, shape_t) if plain else bottleneck(shape_s, shape_t, hidden)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        means, deviations = gaussian_wasserstein(self.projector(student.features[-1]), teacher.features[-1], self.grid)
        weight = self.feature_weight * self.strength()
        own: Losses = {"means": weight * self.mean_weight * means, "deviations": weight * deviations}
        return own | super().distill(student, teacher, batch)

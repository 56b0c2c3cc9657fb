"""Flow of the solution procedure (Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation, CVPR 2017)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.losses import full_precision, pool_to
from distill.method import Nets
from distill.models import Outputs
from distill.parts.stages import equal_channels, stage_pairs
from distill.parts.two_phase import InitThenTrain


@full_precision
def fsp_matrix(bottom: Tensor, top: Tensor) -> Tensor:
    """Return G [B,C,C'], the mean over positions of bottom_i top_j (eq. 1).

    bottom [B,C,H,W] and top [B,C',H',W'] are maps of one net; the larger is average-pooled to the smaller.
    """
    bottom, top = pool_to(bottom, top)
    return bottom.flatten(2) @ top.flatten(2).mT / bottom[0, 0].numel()


@full_precision
def fsp_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Sum over adjacent maps of the mean squared difference of both nets' FSP matrices (eq. 2).

    Each a list of [B,C_l,H_l,W_l], with the same C_l in both. The paper sums over the elements of a matrix;
    the mean is that of the CRD tables.
    """
    layers = zip(pairwise(student), pairwise(teacher), strict=True)
    return torch.stack([F.mse_loss(fsp_matrix(*s), fsp_matrix(*t)) for s, t in layers]).sum()


class FSP(InitThenTrain):
    """FSP matrices of stem and stages for `init_epochs`, then labels alone.

    The stem takes part where both nets have one.
    """

    key = "fsp"

    def __init__(self, *nets: *Nets, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        pairs = stage_pairs(student, self.teacher, "fsp")
        self.stem = student.stem_shape is not None and self.teacher.stem_shape is not None
        if student.stem_shape and self.teacher.stem_shape:
            pairs = [(student.stem_shape, self.teacher.stem_shape), *pairs]
        if len(pairs) < 2:
            raise ValueError(
                f"fsp needs two maps of each net, and {student.name} has one: take method=at instead."
            )
        equal_channels(pairs, student.name, self.teacher.name, "fsp")

    def maps(self, outputs: Outputs) -> list[Tensor]:
        """Return the maps whose neighbours are paired."""
        return (
            [outputs.stem, *outputs.features] if self.stem and outputs.stem is not None else outputs.features
        )

    def match(self, student: Outputs, teacher: Outputs) -> Tensor:
        return fsp_loss(self.maps(student), self.maps(teacher))

"""Several foundation models in one student: AM-RADIO (arXiv:2312.06709) and UNIC (arXiv:2408.05088)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import distill.parallel as parallel
from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.patches import at_positions, patch_map, patch_shape, truncated
from distill.parts.several import SeveralTeachers

LAST_MOMENTUM = 0.001  # to which the share of a batch in the statistics falls from 1, by a cosine (UNIC, main_unic.py)
LEAST_SPREAD = 1e-6  # what a spread is held above (UNIC, utils.py)


@full_precision
def match(student: Tensor, teacher: Tensor, cosine: float, smooth: float) -> Tensor:
    """cosine x (1 - cos) + smooth x smooth L1 of rows [...,D], the latter's mean over D: [...]."""
    apart = cosine * (1 - F.cosine_similarity(student, teacher, dim=-1))
    if not smooth:
        return apart
    return apart + smooth * F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)


def keep_mask(costs: Tensor, share: float) -> Tensor:
    """1 or 0 for each teacher's cost of each image [M,B]: all but the largest are dropped with the probability `share`
    (UNIC, section 3.3).
    """
    stays = torch.rand_like(costs) >= share
    return (stays | (costs == costs.amax(0))).to(costs.dtype)


class RunningStatistics(nn.Module):
    """Running mean and spread of rows [...,D], by which they are standardised."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def forward(self, rows: Tensor, share: float) -> Tensor:
        """Rows standardised by the statistics of the batches before, into which theirs go by `share` afterwards."""
        flat = rows.float().flatten(0, -2)
        made = (rows.float() - self.mean) / (self.std + LEAST_SPREAD)
        self.mean.lerp_(parallel.mean(flat.mean(0)), share)
        self.std.lerp_(parallel.mean(flat.std(0)) + LEAST_SPREAD, share)
        return made


class Agglomeration(SeveralTeachers):
    """ce CE + weight x the mean over images and teachers of `match`, of embeddings and of patches at each's places.

    For each teacher the student's embedding and its patches go through a two-layer head. cosine, smooth: weights of
    embeddings; places_cosine, places_smooth: of patches. standardize: teachers by their running statistics (UNIC).
    drop: the probability that a teacher is left out for an image that another one is further from (UNIC).
    AM-RADIO sums over its teachers, which is the mean times their number, and norms before the head's activation.
    """

    def __init__(
        self, *nets: *Nets, weight: float, cosine: float, smooth: float, places_cosine: float, places_smooth: float,
        drop: float, standardize: bool, hidden: int, norm: bool, **common: Any
    ) -> None:  # fmt: skip
        super().__init__(*nets, **common)
        if self.kd:
            raise ValueError(f"method.kd={self.kd:g}: what several backbones have in common is no logits: set it to 0")
        self.weight, self.drop = weight, drop
        self.of_whole, self.of_places = (cosine, smooth), (places_cosine, places_smooth)
        wide = [(net.embedding_dim, patch_shape(net)[0]) for net in (self.student, *self.teachers)]
        self.heads = nn.ModuleList(
            nn.ModuleList(_head(*widths, hidden, norm) for widths in zip(wide[0], own, strict=True))
            for own in wide[1:]
        )
        widths = wide[1:] if standardize else []
        self.statistics = nn.ModuleList(nn.ModuleList(map(RunningStatistics, own)) for own in widths)

    @property
    def share(self) -> float:
        """Of a batch in the statistics, in this epoch: from 1 to LAST_MOMENTUM by a cosine."""
        done = (self.epoch - 1) / max(self.epochs - 1, 1)
        return LAST_MOMENTUM + (1 - LAST_MOMENTUM) * (1 + math.cos(math.pi * done)) / 2

    def learn(self, student: Outputs, teachers: Sequence[Outputs], batch: Batch) -> Losses:
        costs = torch.stack([self._cost(k, student, teacher) for k, teacher in enumerate(teachers)])
        weights = keep_mask(costs.detach(), self.drop) if self.drop else torch.ones_like(costs)
        return {"match": self.weight * (weights * costs).sum() / weights.sum()}

    def _cost(self, k: int, student: Outputs, teacher: Outputs) -> Tensor:
        """How far the student is from teacher k, of each image [B]: the mean of its embedding and its patches."""
        places = patch_map(teacher)
        of_teacher = [teacher.embedding, at_positions(places, places)]
        of_student = [student.embedding, at_positions(patch_map(student), places)]
        if len(self.statistics):
            of_teacher = [own(rows, self.share) for own, rows in zip(self.statistics[k], of_teacher, strict=True)]  # type: ignore[call-overload]
        made = [head(rows) for head, rows in zip(self.heads[k], of_student, strict=True)]  # type: ignore[call-overload]
        whole = match(made[0], of_teacher[0], *self.of_whole)
        return (whole + match(made[1], of_teacher[1], *self.of_places).mean(1)) / 2


def _head(width_s: int, width_t: int, hidden: int, norm: bool) -> nn.Sequential:
    """Two layers from the student's width to a teacher's."""
    wide = hidden or width_t
    between = [nn.LayerNorm(wide)] if norm else []
    return nn.Sequential(truncated(nn.Linear(width_s, wide)), *between, nn.GELU(), truncated(nn.Linear(wide, width_t)))

"""Cross-layer distillation with semantic calibration (Chen et al., AAAI 2021, arXiv:2012.03236)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import distill.parallel as parallel
from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs
from distill.parts.products import Gram, rows

GRAM_FACTOR = 4  # the embedding of a Gram row is this much narrower than the batch


@full_precision
def gram(feature: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,B]: inner products of all pairs of the batch's maps (eq. 5). Not normalised."""
    return Gram.apply(rows(feature).flatten(1))


@full_precision
def attend(queries: Tensor, keys: Tensor) -> Tensor:
    """Student queries [B,Ls,E] and teacher keys [B,Lt,E] -> weights [B,Ls,Lt] that sum to 1 over teacher
    stages (eq. 7)."""
    return (queries @ keys.transpose(1, 2)).softmax(dim=-1)


@full_precision
def map_distances(projected: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample: two [B,C,H,W] -> [B]."""
    return (rows(projected) - rows(target)).square().mean((1, 2))


@full_precision
def semckd_loss(attention: Tensor, distances: Tensor) -> Tensor:
    """(1/(B Ls)) sum over samples, student and teacher stages of attention x distance, both [B,Ls,Lt] (eq.
    8)."""
    return (attention * distances).sum() / (attention.shape[0] * attention.shape[1])


class GramEmbed(nn.Sequential):
    """Two-layer perceptron from a row of a Gram matrix to a unit vector."""

    def __init__(self, batch_size: int) -> None:
        width = max(batch_size // GRAM_FACTOR, 1)
        super().__init__(nn.Linear(batch_size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, input: Tensor) -> Tensor:
        return F.normalize(super().forward(input).float(), dim=1)


def _projection(student: int, teacher: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions from the student's to the teacher's channels, twice as wide in
    between."""
    middle = 2 * teacher
    return nn.Sequential(
        nn.Conv2d(student, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
        nn.Conv2d(middle, teacher, 1, bias=False),
    )  # fmt: skip


class SemCKD(Method):
    """Every student stage learns from every teacher stage, as much as the batch's similarities in both are
    alike.

    Queries and keys are embeddings of Gram matrices over the batch, so their input width is the batch size:
    the last, smaller batch of an epoch is left out, as in the authors' code. Any numbers of stages fit. Over
    several devices each forms the Gram matrices of its own part of the batch.
    """

    refuses = {"last_batch": "for its attention is as wide as a batch"}

    def __init__(self, *nets: *Nets, batch_size: int, weight: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if batch_size % parallel.world():
            raise ValueError(
                f"method=semckd needs equal parts of each batch: set schedule.batch_size={batch_size} to a multiple of "
                f"the {parallel.world()} processes."
            )
        batch_size //= parallel.world()
        self.weight, self.batch_size = weight, batch_size
        self.queries = nn.ModuleList(GramEmbed(batch_size) for _ in student.channels)
        self.keys = nn.ModuleList(GramEmbed(batch_size) for _ in self.teacher.channels)
        self.projections = nn.ModuleList(
            nn.ModuleList(_projection(s, t) for t in self.teacher.channels) for s in student.channels
        )

    def attention(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Stage maps [B,C,H,W] of both nets -> how much each student stage listens to each teacher stage
        [B,Ls,Lt]."""
        queries = [embed(gram(x)) for embed, x in zip(self.queries, student, strict=True)]
        keys = [embed(gram(x)) for embed, x in zip(self.keys, teacher, strict=True)]
        return attend(torch.stack(queries, 1), torch.stack(keys, 1))

    def distances(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Stage maps of both nets -> [B,Ls,Lt]: mean squared errors after projection, the larger map
        pooled."""
        each = []
        for source, projections in zip(student, self.projections, strict=True):
            assert isinstance(projections, nn.ModuleList)
            pairs = [(project, *pool_to(source, target)) for project, target in zip(projections, teacher, strict=True)]
            each.append(torch.stack([map_distances(project(s), t) for project, s, t in pairs], 1))
        return torch.stack(each, 1)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        if len(batch) != self.batch_size:
            raise ValueError(
                f"semckd was built for batches of {self.batch_size} and got one of {len(batch)}: set "
                "method.batch_size to schedule.batch_size, as the width of its attention is the batch size."
            )
        attention = self.attention(student.features, teacher.features)
        distances = self.distances(student.features, teacher.features)
        return {"semckd": self.weight * semckd_loss(attention, distances)}

    def phases(self) -> list[Phase]:
        update = Update("student", self.loss, [self])
        return [Phase("distill", [update], source=lambda source: source.replace(last_batch="drop"))]

"""KD++: norm and direction of the embedding (Wang, Cheng, Duan, Wang, Feng, Kong 2023, arXiv:2305.17007)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import distill.parallel as parallel
from distill.batch import Batch, Source
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs


@full_precision
def direction_norm_loss(student: Tensor, teacher: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """1 - f_s . e_c / max(|f_s|, |f_t|), mean over embeddings [B,D]; e_c is the unit centre, of centres [K,D], of the
    label's [B] class.

    It pulls the student's embedding along its class's mean direction and up to the teacher's length: larger ones are
    measured by their own.
    """
    along = (student * F.normalize(centres[labels], dim=1)).sum(dim=1)
    longer = torch.maximum(student.norm(dim=1), teacher.norm(dim=1))
    return 1 - (along / longer).mean()


def start_linear(linear: nn.Linear, std: float | None) -> None:
    """The weights and biases from which a linear layer learns: normal ones of deviation `std`; None: torch's weights
    and no bias.
    """
    if std is not None:
        nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.normal_(linear.bias, std=std or 0.0)


class ND(Method):
    """ce x CE + kd x ramp x soft targets + weight x ND: an add-on to soft targets that needs the class means.

    The means of the teacher's embeddings are taken in one pass over the training images before the first epoch, as
    the first epoch shows them. The ramp is min((epoch - 1) / warmup_epochs, 1), as the authors count epochs from 0.
    Where the widths differ the student's embedding passes through BatchNorm, dropout and a linear map, as theirs does,
    and that map and the classifier of a student without weights start alike (`start_linear`).
    """

    centres: Tensor  # [K,D]
    known: Tensor

    def __init__(self, *nets: *Nets, weight: float, warmup_epochs: int, dropout: float, linear_std: float | None,
                 **common: Any) -> None:
        student, _, data = nets
        super().__init__(*nets, **common)
        self.weight, self.warmup_epochs = weight, warmup_epochs
        dim_s, dim_t = student.embedding_dim, self.teacher.embedding_dim
        self.embed: nn.Module = nn.Identity()
        if dim_s != dim_t:
            self.embed = nn.Sequential(nn.BatchNorm1d(dim_s), nn.Dropout(dropout), nn.Linear(dim_s, dim_t))
            for layer in [self.embed[-1], *([] if student.begun else student.classifiers)]:
                if isinstance(layer, nn.Linear):
                    start_linear(layer, linear_std)
        self.register_buffer("centres", torch.zeros(data.num_classes, dim_t))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))

    def measure(self, source: Any) -> Source:
        """Take the class means of the teacher's embeddings, unless that is done."""
        if not bool(self.known):
            sums = torch.zeros_like(self.centres)
            counts = sums.new_zeros(len(sums), 1)
            with torch.no_grad():
                for batch in source.epoch(1):
                    sums.index_add_(0, batch.classes, self.teach(batch).embedding.float())
                    counts.index_add_(0, batch.classes, torch.ones_like(batch.classes)[:, None].float())
            self.centres.copy_(parallel.summed(sums) / parallel.summed(counts).clamp_min(1))
            self.known.fill_(True)
        kept: Source = source
        return kept

    def phases(self) -> list[Phase]:
        return [Phase("distill", [Update("student", self.loss, [self])], source=self.measure)]

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        ramp = min((self.epoch - 1) / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        return ramp * super().soft_targets(student, teacher)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        pair = self.embed(student.embedding), teacher.embedding
        loss = self.by_label(lambda labels: direction_norm_loss(*pair, self.centres, labels), batch)
        return {"nd": self.weight * loss}

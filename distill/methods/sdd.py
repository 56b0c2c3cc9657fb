"""Scale decoupled distillation (Wei, Luo, Luo, CVPR 2024, arXiv:2403.13512): logits of regions at several scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.methods.crld import soft_losses
from distill.methods.dkd import other_classes
from distill.models import FeatureNet, Outputs
from distill.parts.choice import check_choice
from distill.parts.probing import probe_outputs

_BASES = ("kd", "dkd", "nkd")
_FINEST = 4
RowLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits [N,K] of student and teacher and labels [N] -> the loss of each row [N]."""


def decoupled_losses(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """alpha TCKD + beta NCKD (Zhao et al., CVPR 2022, arXiv:2203.08679, eq. 7) of each row of logits [N,K]."""

    def binary(logits: Tensor) -> Tensor:
        tempered = logits / temperature
        label = tempered.gather(1, labels[:, None]).squeeze(1)
        return temperature * torch.stack([label, other_classes(tempered, labels).logsumexp(dim=1)], dim=1)

    target = soft_losses(binary(student), binary(teacher), temperature)
    others = soft_losses(other_classes(student, labels), other_classes(teacher, labels), temperature)
    return alpha * target + beta * others


def normalised_losses(student: Tensor, teacher: Tensor, labels: Tensor, gamma: float, temperature: float) -> Tensor:
    """-p_t[y] log p_s[y] - gamma T^2 sum_c p_t^T[c] log p_s^T[c] of each row of logits [N,K].

    NKD leaves the label out of the sum (arXiv:2303.13005); SDD's code, which this is, does not.
    """
    log_p_label = F.log_softmax(student, dim=1).gather(1, labels[:, None]).squeeze(1)
    target = F.softmax(teacher, dim=1).gather(1, labels[:, None]).squeeze(1)
    spread = F.softmax(teacher / temperature, dim=1) * F.log_softmax(student / temperature, dim=1)
    return -target * log_p_label - gamma * temperature**2 * spread.sum(dim=1)


@full_precision
def scale_decoupled_loss(student: Tensor, teacher: Tensor, labels: Tensor, loss: RowLoss, emphasis: float) -> Tensor:
    """Mean of a loss over the regions' logits [B,R,K], the first of which is the whole map.

    A region counts `emphasis` times where the teacher is right about it and wrong about the whole map, or the other way
    round: complementary knowledge, as against consistent.
    """
    regions = student.shape[1]
    rows = loss(student.flatten(0, 1), teacher.flatten(0, 1), labels.repeat_interleave(regions))
    right = teacher.argmax(dim=2) == labels[:, None]
    weights = 1 + (emphasis - 1) * (right != right[:, :1]).float()
    return (weights * rows.view_as(weights)).mean()


def region_logits(net: FeatureNet, final: Tensor, grids: Sequence[int]) -> Tensor:
    """Logits [B,R,K] of the cells of each grid of g x g over the map [B,D,H,W] that the net's head pools.

    Cells of coarser grids are means of the finest one's, which has four a side at least where the others divide four,
    as in the authors' code: of 7 x 7 positions those in the middle count more often.
    """
    finest = F.adaptive_avg_pool2d(final, _FINEST if all(_FINEST % grid == 0 for grid in grids) else max(grids))
    cells = torch.cat([F.adaptive_avg_pool2d(finest, grid).flatten(2) for grid in grids], dim=2)
    batch, width, count = cells.shape
    return net.head(cells.mT.reshape(batch * count, width, 1, 1)).view(batch, count, -1)


class SDD(Method):
    """ce x CE + ramp x mean over regions of the loss of `base`: of soft targets (kd), or decoupled (dkd) or normalised
    (nkd) ones, weighted by how the teacher's opinion of a region stands to that of the whole map.

    grids: cells a side of each scale; 1, the whole map, comes first. alpha: of soft targets, and of the label's term of
    dkd; beta: of the other classes, nkd's gamma. The ramp is min(epoch / warmup_epochs, 1), 1 for kd.
    """

    def __init__(
        self, *nets: *Nets, ce: float, temperature: float, base: str, grids: Sequence[int], emphasis: float,
        alpha: float, beta: float, warmup_epochs: int
    ) -> None:
        super().__init__(*nets, ce=ce, temperature=temperature, kd=0.0)
        check_choice("base", base, _BASES)
        if not grids or grids[0] != 1 or min(grids) < 1:
            raise ValueError(f"method.grids is {list(grids)}: it begins with 1, the whole map, such as [1, 2, 4].")
        if base == "dkd" and self.student.num_classes < 3:
            raise ValueError("method.base=dkd tells apart classes that are not the label: take kd for two classes.")
        self.base, self.grids, self.emphasis = base, tuple(grids), emphasis
        self.alpha, self.beta, self.warmup_epochs = alpha, beta, warmup_epochs
        for net in (self.student, self.teacher):
            check_regions(net)

    def row_losses(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each region [N], logits [N,K]."""
        if self.base == "kd":
            return self.alpha * soft_losses(student, teacher, self.temperature)
        if self.base == "dkd":
            return decoupled_losses(student, teacher, labels, self.alpha, self.beta, self.temperature)
        return normalised_losses(student, teacher, labels, self.beta, self.temperature)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        assert student.final is not None and teacher.final is not None
        logits_s = region_logits(self.student, student.final, self.grids)
        with torch.no_grad():
            logits_t = region_logits(self.teacher, teacher.final, self.grids)
        ramp = 1.0 if self.base == "kd" else self.ramp(self.warmup_epochs)
        loss = self.by_label(
            lambda labels: scale_decoupled_loss(logits_s, logits_t, labels, self.row_losses, self.emphasis), batch
        )
        return {"regions": ramp * loss}


def check_regions(net: FeatureNet) -> None:
    """ValueError for a net whose head does not classify any part of a map."""
    if probe_outputs(net).final is None:
        raise ValueError(
            f"sdd classifies regions of the last map, and the classifier of {net.name} reads none: take nets that pool "
            "their last map, or method=dkd."
        )

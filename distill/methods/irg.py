"""Instance relationship graph (Liu, Cao, Li, Yuan, Hu, Li, Duan, CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.products import Gram, rows

_EPS = 1e-12


def edges(feature: Tensor) -> Tensor:
    """Return squared distances [B,B] between samples' features [B,...], over the largest of them."""
    products = Gram.apply(rows(feature).flatten(1) if feature.ndim == 4 else feature)
    square = products.diag()
    distance = (square[:, None] + square[None, :] - 2 * products).clamp(min=0)
    distance = distance - distance.diag().diag()
    return distance / distance.max().clamp(min=_EPS)


def channels_to(feature: Tensor, channels: int) -> Tensor:
    """Average neighbouring channels of [B,C,H,W] down to `channels`: pairs where C is twice as many."""
    if feature.shape[1] == channels:
        return feature
    return F.adaptive_avg_pool1d(rows(feature), channels).mT.unflatten(2, feature.shape[2:])


def transformation(earlier: Tensor, later: Tensor) -> Tensor:
    """Return how far each sample moves between two stages [B,C,H,W]: squared distance [B] over the largest.

    The larger map is pooled to the other's size, and the wider's channels are averaged to the other's number
    (for doubling channels the averages of pairs that KD-Zoo takes).
    """
    earlier, later = pool_to(earlier, later)
    channels = min(earlier.shape[1], later.shape[1])
    moved = (channels_to(earlier, channels) - channels_to(later, channels)).square().sum(dim=(1, 2, 3))
    return moved / moved.max().clamp(min=_EPS)


@full_precision
def vertex_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of the logits [B,K], the graph's vertices."""
    return F.mse_loss(student, teacher)


@full_precision
def edge_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over pairs of features [B,...] of the mean squared error of their edges [B,B]."""
    gaps = [F.mse_loss(edges(s), edges(t)) for s, t in zip(student, teacher, strict=True)]
    return sum(gaps[1:], gaps[0]) / len(gaps)


@full_precision
def transformation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared error of the transformations [B] between two stages' maps [B,C,H,W] of each net."""
    return F.mse_loss(transformation(*student), transformation(*teacher))


class IRG(Method):
    """CE + weight x (vertex L_v + edge L_e + transform L_t): vertices are logits, edges between samples of
    the last two stages and the embedding, transformations between those two stages.

    One-to-one mode, as in KD-Zoo (the official code is Caffe); channels need not double from stage to stage.
    It relates the samples of one batch, by their largest distance: over several devices, of each device's own
    part.
    """

    def __init__(
        self, *nets: *Nets, weight: float, vertex: float, edge: float, transform: float, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        for net in (student, self.teacher):
            if len(net.shapes) < 2:
                raise ValueError(f"irg relates two stages, and {net.name} shows {net.shapes}: use method=rkd instead.")
        self.weight, self.vertex, self.edge, self.transform = weight, vertex, edge, transform

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        s, t = student.features[-2:], teacher.features[-2:]
        losses: Losses = {}
        if self.vertex:
            losses["vertex"] = self.weight * self.vertex * vertex_loss(student.logits, teacher.logits)
        if self.edge:
            gap = edge_loss([*s, student.embedding], [*t, teacher.embedding])
            losses["edge"] = self.weight * self.edge * gap
        if self.transform:
            losses["transform"] = self.weight * self.transform * transformation_loss(s, t)
        return losses

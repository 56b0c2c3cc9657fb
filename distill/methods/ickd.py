"""Inter-channel correlation (Liu et al., ICCV 2021, arXiv:2202.03680)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.products import Gram, rows


@full_precision
def correlation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of channel correlations of maps [B,C,H,W] and [B,C,H',W'], summed over [C,C], over B C.

    The correlation of channels is their inner product over positions, each row of the C x C matrix being of unit
    length; the two maps may differ in size.
    """
    grams = []
    for feature in (student, teacher):
        grams.append(F.normalize(Gram.apply(rows(feature).mT), dim=2))
    return (grams[0] - grams[1]).square().sum() / (len(student) * student.shape[1])


class ICKD(Method):
    """Last stage's maps, the student's through a 1x1 convolution and BatchNorm to the teacher's channels.

    The authors' form for classification (ICKD-C). The weight, 2.5 beside the
    cross-entropy alone, is theirs for CIFAR-100; their headline row adds kd=1.
    """

    def __init__(self, *nets: *Nets, weight: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.weight = weight
        channels = self.teacher.channels[-1]
        self.embed = nn.Sequential(nn.Conv2d(student.channels[-1], channels, 1, bias=False), nn.BatchNorm2d(channels))

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        return {"ickd": self.weight * correlation_loss(self.embed(student.features[-1]), teacher.features[-1])}

"""Activation boundaries (Heo, Lee, Yun, Choi, AAAI 2019, arXiv:1811.03233)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.losses import full_precision
from distill.method import Nets
from distill.models import Outputs
from distill.parts.heads import conv_regressor
from distill.parts.stages import Shape, before_relu, no_hidden_relu, stage_pairs, with_relu
from distill.parts.two_phase import InitThenTrain


@full_precision
def boundary_loss(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """Squared hinge on the side of the teacher's boundary, summed over neurons, mean over the batch.

    The differentiable form of the paper's activation transfer loss. Pre-activations [B,C,H,W] both. A neuron
    that fires in the teacher (t > 0) is pushed to s > margin, one that does not (t <= 0) to s <= -margin; how
    far the teacher is from its boundary does not matter.
    """
    short = torch.where(teacher > 0, margin - student, margin + student).clamp_min(0)
    return short.square().sum() / len(student)


class AB(InitThenTrain):
    """The boundary loss of all stages for `init_epochs`, then labels alone.

    The sum over stages l = 1..L is 3/1000 x 2^(l-L) x the boundary loss, constants of the CRD tables.
    Connectors (convolution and BatchNorm, no ReLU) stand wherever the shapes of two pre-activations differ. A
    student whose stages end in no ReLU (linear bottlenecks, transformers) shows their outputs, always through
    a connector; the teacher's stages must end in ReLU.
    """

    key = "ab"

    def __init__(self, *nets: *Nets, margin: float, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.margin = margin
        pairs = stage_pairs(student, self.teacher, "ab")
        with_relu(self.teacher, "ab")
        no_hidden_relu(student, "ab")
        self.connectors = nn.ModuleList(self.connector(s, t) for s, t in pairs)

    def connector(self, student: Shape, teacher: Shape) -> nn.Module:
        if student == teacher and self.student.has_preacts:
            return nn.Identity()
        return conv_regressor(student, teacher, relu=False)

    def adapters(self) -> list[nn.Module]:
        return [self.connectors]

    def match(self, student: Outputs, teacher: Outputs) -> Tensor:
        maps_s, others = before_relu(self.student, student), before_relu(self.teacher, teacher)
        losses = [
            boundary_loss(connect(s), t, self.margin)
            for connect, s, t in zip(self.connectors, maps_s, others, strict=True)
        ]
        halved = [2.0 ** (stage + 1 - len(losses)) * loss for stage, loss in enumerate(losses)]
        return 3e-3 * torch.stack(halved).sum()

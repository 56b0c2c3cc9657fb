"""Distilling knowledge via knowledge review (Chen, Liu, Zhao, Jia, CVPR 2021, arXiv:2104.09044)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.heads import BatchNorm
from distill.parts.stages import no_hidden_relu
from distill.parts.teacher_mode import TeacherMode

PYRAMID = (4, 2, 1)


@full_precision
def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of one level (section 3.3): mean squared error of maps [B,C,H,W] at full
    size, and of their averages on grids of 4x4, 2x2 and 1x1 cells with halving weights, divided by the sum of
    the weights.

    Grids not smaller than the map are left out. Pooling is linear, so the difference is pooled instead of
    both maps; where 4 divides H and W each grid is pooled from the one before, which gives the same cells.
    """
    gap = coarse = student - teacher
    nests = gap.shape[2] % PYRAMID[0] == 0 and gap.shape[3] % PYRAMID[0] == 0
    loss, share, total = gap.square().mean(), 1.0, 1.0
    for size in PYRAMID:
        if size < min(gap.shape[2:]):
            coarse = F.adaptive_avg_pool2d(coarse if nests else gap, size)
            share /= 2
            total += share
            loss = loss + share * coarse.square().mean()
    return loss / total


class Fusion(nn.Module):
    """Attention-based fusion of one student level with what the deeper levels left behind (section 3.3, fig.
    3a)."""

    def __init__(self, channels: int, middle: int, out: int, *, deepest: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels, middle, 1, bias=False), BatchNorm(middle))
        self.leave = nn.Sequential(nn.Conv2d(middle, out, 3, padding=1, bias=False), BatchNorm(out))
        self.gates = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        for block in (self.enter, self.leave):
            nn.init.kaiming_uniform_(block[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, feature: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """feature [B,C,H,W], deeper [B,M,H',W'] -> the teacher-like map at `size`, and what the next level
        gets."""
        x = self.enter(feature)
        if self.gates is not None and deeper is not None:
            x = self._fuse(self.gates, x, deeper)
        x = _nearest(x, size)
        return self.leave(x), x

    def _fuse(self, gates: nn.Conv2d, x: Tensor, deeper: Tensor) -> Tensor:
        """x g_1 + up(deeper) g_2; the gates' convolution sees the small map before it is repeated upwards."""
        own, other = gates.weight.flatten(1).split(x.shape[1], dim=1)
        size = x.shape[2:]
        gate = (pointwise(x, own, gates.bias) + _nearest(pointwise(deeper, other), size)).sigmoid()
        return x * gate[:, :1] + _nearest(deeper, size) * gate[:, 1:]


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of [B,C,H,W] by [O,C]: one product of matrices in channels_last memory, where
    convolutions to two channels are slow."""
    return F.linear(x.movedim(1, -1), weight, bias).movedim(-1, 1)


def _nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize [B,C,H,W] by nearest neighbour, or return it where it has that size."""
    return x if tuple(x.shape[2:]) == tuple(size) else F.interpolate(x, size=tuple(size), mode="nearest")


class ReviewKD(TeacherMode):
    """Teacher stages are compared with student stages that have reviewed all deeper ones; the last level is
    the embedding as a 1x1 map (eq. 6: CE + lambda HCL of every level, the weight rising over `warmup`
    epochs).

    Teacher maps are pre-activations where the net has them. For CIFAR-100 the authors' loop counts the warm-up's
    epochs from 0 (`first_epoch`), so that the first one has no weight, and never puts the teacher in eval mode
    (`teacher_mode`); their loop for ImageNet does, and mdistiller counts from 1. Shapes come from the nets, where
    all other implementations have tables of them. `width` bounds the channels in the fusions.
    """

    def __init__(
        self, *nets: *Nets, weight: float, warmup: int, first_epoch: int, width: int, student_preact: bool,
        teacher_mode: str, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self._check(student_preact)
        self.set_teacher_mode(teacher_mode)
        if first_epoch not in (0, 1):
            raise ValueError(f"method.first_epoch is {first_epoch}: the warm-up counts epochs from 0 or from 1.")
        self.weight, self.warmup, self.student_preact = weight, warmup, student_preact
        self.first_epoch = first_epoch
        inputs = [*student.channels, student.embedding_dim]
        outputs = [*self.teacher.channels, self.teacher.embedding_dim]
        middle = min(width, inputs[-1])
        levels = range(len(inputs))
        self.fusions = nn.ModuleList(
            Fusion(inputs[i], middle, outputs[i], deepest=i == len(inputs) - 1) for i in levels
        )

    def _check(self, student_preact: bool) -> None:
        student, teacher = self.student, self.teacher
        if len(student.shapes) != len(teacher.shapes):
            raise ValueError(
                f"reviewkd pairs stages one to one, but {student.name} has stages {student.shapes} and "
                f"{teacher.name} {teacher.shapes}: take nets with equally many, or method=semckd, which "
                "pairs every student stage with every teacher stage."
            )
        no_hidden_relu(teacher, "reviewkd")
        if student_preact and not student.has_preacts:
            raise ValueError(
                f"method.student_preact needs maps before the stages' last ReLU, which {student.name} with "
                f"stages {student.shapes} has not: set method.student_preact=false, or take method=semckd."
            )

    def levels(self, outputs: Outputs, preact: bool) -> list[Tensor]:
        """Return the stage maps, shallow to deep, and the embedding as [B,D,1,1]."""
        maps = outputs.preacts if preact and outputs.preacts is not None else outputs.features
        return [*maps, outputs.embedding[:, :, None, None]]

    def review(self, student: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return what the levels [B,C_l,H_l,W_l] become, from deep to shallow, in the order given."""
        out: list[Tensor] = []
        deeper: Tensor | None = None
        for fusion, feature, size in reversed(list(zip(self.fusions, student, sizes, strict=True))):
            result, deeper = fusion(feature, deeper, size)
            out.insert(0, result)
        return out

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        targets = self.levels(teacher, preact=True)
        reviewed = self.review(self.levels(student, self.student_preact), [t.shape[2:] for t in targets])
        each = [hcl_loss(s, t) for s, t in zip(reviewed, targets, strict=True)]
        epoch = self.epoch - 1 + self.first_epoch
        rising = min(epoch / self.warmup, 1.0) if self.warmup > 0 else 1.0
        return {"review": self.weight * rising * torch.stack(each).sum()}

"""Masked generative distillation (Yang, Li, Shao, Shi, Yuan, Yuan, ECCV 2022, arXiv:2205.01529)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Nets
from distill.models import Outputs
from distill.parts.teacher_mode import TeacherMode


@full_precision
def mgd_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of maps [B,C,H,W], summed over C, H and W and averaged over the batch alone (eq. 4)."""
    return (generated - teacher).square().sum() / len(generated)


class MGD(TeacherMode):
    """The teacher's last map is generated from the student's, of which a part is masked out (eq. 2-5).

    For classification whole channels are masked, as in the authors' code; `mask=position` masks places, as
    for detection. Where the maps differ in size the larger is average-pooled; the authors' code refuses such
    pairs. The sum makes the loss grow with C, H and W of the teacher's map, and the weight with it.

    The authors' trainer (mmcv's) puts the frozen teacher back in train mode: teacher_mode="train".
    """

    def __init__(self, *nets: *Nets, weight: float, ratio: float, mask: str, teacher_mode: str, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.set_teacher_mode(teacher_mode)
        if mask not in ("channel", "position"):
            raise ValueError(f"method.mask is {mask!r}: it is one of channel, position.")
        if not 0 <= ratio < 1:
            raise ValueError(
                f"method.ratio is {ratio}: it is the share that is masked out, at least 0 and below 1."
            )
        self.weight, self.ratio, self.mask = weight, ratio, mask
        channels, width = student.channels[-1], self.teacher.channels[-1]
        self.align = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()
        self.generator = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def keep(self, x: Tensor) -> Tensor:
        """Draw what of maps [B,C,H,W] is kept: [B,C,1,1] for channels, [B,1,H,W] for positions, ones and
        zeros."""
        b, c, h, w = x.shape
        shape = (b, c, 1, 1) if self.mask == "channel" else (b, 1, h, w)
        return (torch.rand(shape, device=x.device) >= self.ratio).to(x.dtype)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        source, target = pool_to(student.features[-1], teacher.features[-1])
        aligned = self.align(source)
        return {"mgd": self.weight * mgd_loss(self.generator(aligned * self.keep(aligned)), target)}

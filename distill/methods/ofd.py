"""Overhaul of feature distillation (Heo, Kim, Yun, Park, Kwak, Choi, ICCV 2019, arXiv:1904.01866)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Nets
from distill.models import FeatureNet, Outputs
from distill.parts.heads import he_by_fan_out
from distill.parts.stages import before_relu, no_hidden_relu, stage_pairs, with_relu
from distill.parts.teacher_mode import TeacherMode


@full_precision
def partial_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance summed over elements, mean over the batch, where it counts (partial L2).

    Pre-activations [B,C,H,W] of the student behind its connector, and of the teacher behind its margin ReLU.
    A student value at or below a teacher value that is not positive is right already and costs nothing.
    """
    counts = (student > teacher) | (teacher > 0)
    return ((student - teacher).square() * counts).sum() / len(student)


def margins(norm: nn.BatchNorm2d) -> Tensor:
    """Return E[x | x < 0] [C] of each channel, x normal as the BatchNorm's weight and bias say (margin ReLU).

    With s = |weight| and b = bias: m = b - s phi(b/s) / Phi(-b/s), and m = -3 s where Phi(-b/s) <= 0.001,
    that is where hardly any response is negative.
    """
    s = norm.weight.detach().double().abs().clamp_min(1e-12)
    b = norm.bias.detach().double()
    below = torch.special.ndtr(-b / s)
    density = torch.exp(-((b / s) ** 2) / 2) / math.sqrt(2 * math.pi)
    m = torch.where(below > 1e-3, b - s * density / below.clamp_min(1e-3), -3 * s)
    return m.to(norm.weight.dtype)


class OFD(TeacherMode):
    """weight x sum over stages l = 1..L of 2^(l-L) x partial L2, the teacher clipped at its margins.

    Connectors are 1x1 convolutions and BatchNorm on the student. teacher_mode="train", the authors': the
    teacher's BatchNorms use the batch's statistics (its running ones stay as they are); "eval" asks it as every
    other method does. Where sizes differ, the teacher's map takes the student's size by adaptive average pooling
    (mdistiller). A student whose stages end in no ReLU shows their outputs.
    """

    def __init__(self, *nets: *Nets, weight: float, teacher_mode: str, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.set_teacher_mode(teacher_mode)
        self.weight = weight
        pairs = stage_pairs(student, self.teacher, "ofd")
        with_relu(self.teacher, "ofd")
        no_hidden_relu(student, "ofd")
        self.connectors = nn.ModuleList(connector(s[0], t[0]) for s, t in pairs)
        for stage, norm in enumerate(norms_of(self.teacher)):
            self.register_buffer(f"margin_{stage}", margins(norm)[:, None, None], persistent=False)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        maps_s, others = before_relu(self.student, student), before_relu(self.teacher, teacher)
        losses = []
        for stage, (connect, s, t) in enumerate(zip(self.connectors, maps_s, others, strict=True)):
            t = t if t.shape[2:] == s.shape[2:] else F.adaptive_avg_pool2d(t, (s.shape[2], s.shape[3]))
            clipped = torch.maximum(t, self.get_buffer(f"margin_{stage}").to(t.dtype))
            losses.append(partial_l2(connect(s), clipped) * 2.0 ** (stage + 1 - len(maps_s)))
        return {"ofd": self.weight * torch.stack(losses).sum()}


def connector(student: int, teacher: int) -> nn.Sequential:
    """1x1 convolution and BatchNorm from the student's channels to the teacher's."""
    conv = he_by_fan_out(nn.Conv2d(student, teacher, 1, bias=False))
    return nn.Sequential(conv, nn.BatchNorm2d(teacher))


def norms_of(teacher: FeatureNet) -> list[nn.BatchNorm2d]:
    """Return the BatchNorm before each stage's last ReLU; ValueError where the teacher has none."""
    try:
        norms = teacher.bn_before_relu()
    except ValueError as error:
        raise ValueError(
            f"ofd takes its margins from a BatchNorm, but {str(error).rstrip('.')}: choose another teacher, "
            "or a method such as method=at."
        ) from error
    assert [norm.num_features for norm in norms] == teacher.channels, teacher.name
    return norms

"""Adapters between a student's and a teacher's tensors that several methods share, sized from the two nets."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]


def conv_regressor(student: Shape, teacher: Shape, *, relu: bool = True) -> nn.Sequential:
    """Map a student map (C,H,W) to a teacher's shape with one convolution, BatchNorm and, for hints, ReLU.

    3x3 stride 2 where the student's map is twice as large, a 4x4 transposed convolution where it is half as
    large, otherwise an unpadded convolution that shrinks it to size (FitNets, arXiv:1412.6550, section 2.2, in the
    form that the CRD tables use). Raises ValueError where no single convolution fits.
    """
    (cs, hs, _), (ct, ht, _) = student, teacher
    conv: nn.Module
    if hs == 2 * ht:
        conv = nn.Conv2d(cs, ct, 3, stride=2, padding=1)
    elif 2 * hs == ht:
        conv = nn.ConvTranspose2d(cs, ct, 4, stride=2, padding=1)
    elif hs >= ht:
        conv = nn.Conv2d(cs, ct, 1 + hs - ht)
    else:
        raise ValueError(
            f"a student map of shape {student} cannot be regressed to the teacher's {teacher}, which is more than "
            "twice as large: choose another stage or a method on embeddings, such as method=crd."
        )
    return nn.Sequential(conv, nn.BatchNorm2d(ct), *([nn.ReLU()] if relu else []))


def stage(shapes: list[Shape], number: int, net: str) -> Shape:
    """Return the shape of a 1-based stage; ValueError names the stages that the net has."""
    if not 1 <= number <= len(shapes):
        raise ValueError(
            f"stage {number} of {net} does not exist: it has stages 1 to {len(shapes)} of shapes {shapes}."
        )
    return shapes[number - 1]


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm that normalises a lone value a channel (a last batch of one pooled image) by its running
    statistics."""

    synchronizable = True  # of all processes' parts there is more than one

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def he_by_fan_out(conv: nn.Conv2d) -> nn.Conv2d:
    """Draw a convolution's weights from N(0, sqrt(2 / (k k C_out))), as the authors of OFD and SRRL do."""
    fan_out = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
    return conv

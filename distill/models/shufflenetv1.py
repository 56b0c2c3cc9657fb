"""ShuffleNet, 3 groups, for 32x32 images: Zhang et al., CVPR 2018, arXiv:1707.01083."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv

STEM = 24


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups: [B, C, H, W] -> [B, C, H, W]."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, 3x3 a channel, grouped 1x1. Stride 2 appends the pooled input, stride 1 adds it.
    Returns the result before the ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        own = outputs - inputs if stride == 2 else outputs
        middle = own // 4
        self.stride = stride
        self.groups = 1 if inputs == STEM else groups
        self.conv1 = conv(inputs, middle, 1, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv(middle, middle, 3, stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = conv(middle, own, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(own)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle(F.relu(self.bn1(self.conv1(x)), inplace=True), self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1)
        return out + x


class ShuffleV1(CifarNet):
    """Three stages of `blocks` units, the first of each with stride 2."""

    classifier_name = "linear"

    def __init__(
        self,
        num_classes: int = 100,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (240, 480, 960),
        blocks: Sequence[int] = (4, 8, 4),
        groups: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_chans, STEM, 1)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = STEM
        for name, outputs, count in zip(self.stage_names, widths, blocks, strict=True):
            first = ShuffleUnit(inputs, outputs, 2, groups)
            setattr(self, name, nn.Sequential(first, *_units(outputs, groups, count - 1)))
            inputs = outputs
        self.describe(num_classes, (STEM, *widths), (1, 2, 4, 8), inputs)

    def stem(self, inputs: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(inputs)), inplace=True)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        raise ValueError(
            "ShuffleV1 adds or appends the shortcut after its last BatchNorm, on channels without one"
        )


def _units(width: int, groups: int, count: int) -> list[ShuffleUnit]:
    return [ShuffleUnit(width, width, 1, groups) for _ in range(count)]

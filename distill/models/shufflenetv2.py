"""ShuffleNet V2 for 32x32 images: Ma et al., ECCV 2018, arXiv:1807.11164.

Units return their channels before the last ReLU and already shuffled. Half of them have passed a ReLU before,
which another ReLU leaves alone, so features = relu(preacts) holds channel by channel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.cifar_net import CifarNet, conv
from distill.models.shufflenetv1 import STEM, shuffle

_WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2: (224, 488, 976, 2048),
}
BLOCKS = (3, 7, 3)


class SplitUnit(nn.Module):
    """Half of the channels pass; the others go through 1x1, 3x3 a channel, 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        passed, out = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        return shuffle(torch.cat([passed, out], 1), 2)


class DownUnit(nn.Module):
    """Two branches with stride 2, side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = conv(inputs, inputs, 3, 2, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = conv(inputs, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(inputs, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)), inplace=True)))
        return shuffle(torch.cat([left, self.bn5(self.conv5(right))], 1), 2)


class ShuffleV2(CifarNet):
    """width: 0.5, 1, 1.5 or 2; ValueError for another. kernel: of the first convolution, 1 in the CRD tables' net, 3 in
    MCL's (winycg/MCL, models/shufflenetv2.py).
    """

    classifier_name = "linear"

    def __init__(self, num_classes: int = 100, in_chans: int = 3, *, width: float = 1, kernel: int = 1) -> None:
        super().__init__()
        if width not in _WIDTHS:
            raise ValueError(f"width={width} of ShuffleV2 must be one of {', '.join(map(str, _WIDTHS))}")
        *widths, last = _WIDTHS[width]
        self.conv1 = conv(in_chans, STEM, kernel)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = STEM
        for name, outputs, count in zip(self.stage_names, widths, BLOCKS, strict=True):
            units = [SplitUnit(outputs) for _ in range(count)]
            setattr(self, name, nn.Sequential(DownUnit(inputs, outputs), *units))
            inputs = outputs
        self.conv2 = conv(inputs, last, 1)
        self.bn2 = nn.BatchNorm2d(last)
        self.describe(num_classes, (STEM, *widths), (1, 2, 4, 8), last)

    def stem(self, inputs: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(inputs)), inplace=True)

    def tail(self, feature: Tensor, preact: Tensor | None = None) -> Tensor:
        return F.relu(self.bn2(self.conv2(feature)), inplace=True)

    def bn_before_relu(self) -> list[nn.BatchNorm2d]:
        raise ValueError("ShuffleV2 passes half of its channels around the last BatchNorm of a stage")
